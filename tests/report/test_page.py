import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.cluster import KMeans

from skexmap import PseudoGroupLabeler
from skexmap.cluster import EigengapSpectralClustering
from skexmap.report import ShortcutReport, _gallery
from skexmap.report._page import end_of, isolated, word_of

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("jinja2")

HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(2)>'
HOSTILE_TOO = "{{ 7 * 7 }} '\" onload=alert(3) --><!-- </style>"


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.open.remove(tag)

    def handle_data(self, data):
        if not self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and all(value in (found.get(key) or "") for key, value in attributes.items())
        ]


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return Page(path.read_text())


@pytest.fixture
def hostile_report(marked, tmp_path, fit_classifier):
    """A report on image files, with class names and file names that try to break out."""
    paths = []
    for place, image in enumerate(marked.X[::2]):
        paths.append(tmp_path / f'{place}"><b onclick=alert(4)>.png')
        Image.fromarray((255 * image.transpose(1, 2, 0)).astype(np.uint8)).save(paths[-1])
    X = np.array([str(path) for path in paths])
    y = np.where(marked.y == "coat", HOSTILE, HOSTILE_TOO)[::2]
    return ShortcutReport.from_estimator(fit_classifier(marked.net, X, y), X, y)


def test_the_page_holds_the_findings_and_every_group(page, report):
    for finding in report.findings:
        assert " ".join(finding.split()) in page.text
    assert len(page.all("section", **{"class": "group"})) == len(report.rows)
    assert len(page.all("article", **{"class": "cluster"})) == 2


def test_the_page_needs_no_network(page):
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    sources = [found.get("src") for _, found in page.elements if "src" in found]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not page.all("link")
    assert all(found["href"].startswith("#") for found in page.all("a"))


def test_every_image_and_plot_has_a_text_and_every_control_a_label(page):
    images = page.all("img")
    assert all("alt" in image for image in images)
    shown = [image for image in images if "overlay" not in image.get("class", "")]
    assert all(image["alt"] for image in shown)
    assert all(found.get("aria-label") for found in page.all("svg"))
    assert len(page.all("label")) >= len(page.all("select")) + len(page.all("input"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_spectrum_is_described_by_its_eigenvalues(marked, fit_classifier, tmp_path):
    clusterer = EigengapSpectralClustering(3, n_neighbors=30)
    classifier = fit_classifier(marked.net, marked.X, marked.y, clusterer=clusterer)
    ShortcutReport.from_estimator(classifier, marked.X, marked.y).save(tmp_path / "report.html")
    (plot,) = Page((tmp_path / "report.html").read_text()).all("svg", **{"aria-label": "eigenvalues"})
    _, _, numbers = plot["aria-label"].removesuffix("; 3 clusters").partition("All images: eigenvalues ")
    eigenvalues = classifier.labeler_.clusterers_[0].eigenvalues_
    np.testing.assert_allclose([float(number) for number in numbers.split(", ")], eigenvalues, atol=0.005)


def test_each_group_shows_typical_wrong_and_random_images_and_each_image_once(report, tmp_path):
    report.save(tmp_path / "report.html", n_examples=4)
    page = Page((tmp_path / "report.html").read_text())
    cards = page.all("figure", **{"class": "card"})
    # Two groups hold right images only; of those that hold wrong ones only, one has 9 images in all.
    assert len(cards) == (4 + 4) + (4 + 4) + (4 + 4 + 4) + 9
    items = re.findall(r"image \d+", " ".join(image["alt"] for image in page.all("img")))
    assert len(items) == len(set(items)) == len(cards)
    assert {card["data-before"] for card in cards} == {"right", "wrong"}


def test_images_are_small_jpegs_of_what_the_net_sees(page, marked):
    image = next(found for found in page.all("img", alt="image ") if "jpeg" in found["src"])
    row = int(re.search(r"image (\d+)", image["alt"])[1])
    decoded = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    assert decoded.size == (14, 14)
    difference = np.asarray(decoded).transpose(2, 0, 1) / 255 - marked.X[row].clip(0, 1)
    assert np.abs(difference).mean() < 0.05


def test_an_overlay_is_opaque_where_the_net_looks_and_clear_elsewhere(page):
    overlay = page.all("img", **{"class": "overlay magnitude"})[0]["src"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay.partition(",")[2]))).convert("RGBA"))
    assert pixels.shape == (14, 14, 4)
    # The first group looks at the mark.
    assert pixels[12:, 12:, 3].min() > 200
    assert pixels[:3, :3, 3].max() < 60


def test_hostile_names_of_classes_and_files_stay_text(hostile_report, tmp_path):
    hostile_report.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert HOSTILE in page.text
    assert HOSTILE_TOO in page.text
    assert "49 '" not in page.text
    assert "<b onclick=alert(4)>" in " ".join(image["alt"] for image in page.all("img"))
    assert Page(hostile_report._repr_html_()).all("script") == []
    assert text.count("</style>") == 1


@pytest.mark.parametrize(
    "path, shown",
    [
        ("image 7", "image 7"),
        ("/data/photos/2024/heldout/0 to 4/0017.jpg", "…/photos/2024/heldout/0 to 4/0017.jpg"),
        (r"C:\photos\somewhere\heldout\0 to 4\0017.jpg", r"…\somewhere\heldout\0 to 4\0017.jpg"),
        ("/data/" + 50 * "a" + ".jpg", "…" + 32 * "a" + ".jpg"),
    ],
)
def test_a_long_path_shows_its_end(path, shown):
    assert end_of(path) == shown


def test_names_from_right_to_left_are_isolated_in_findings_and_others_stay_as_they_are():
    markup = isolated("Among 'מעיל', 9% of <'coat'> (סימן 7).", {"'מעיל'", "'coat'", "סימן 7"})
    expected = "Among <bdi>'מעיל'</bdi>, 9% of &lt;'coat'&gt; (<bdi>סימן 7</bdi>)."
    assert markup == expected.replace("'", "&#39;")


@pytest.mark.parametrize(
    "verdict, p_value, word",
    [
        ("nothing to see here", 1e-6, "accuracy differs, but this place does not explain it"),
        ("nothing to see here", 0.5, "nothing to see here"),
        ("likely a shortcut", 1e-6, "likely a shortcut"),
    ],
)
def test_a_cluster_with_a_gap_that_counts_is_not_cleared(verdict, p_value, word):
    assert word_of([{"verdict": verdict, "p_value": p_value, "net_gap": -0.85}]) == word


def test_the_page_says_how_many_images_are_in_no_cluster(marked, fit_classifier, page, tmp_path):
    classifier = fit_classifier(marked.net, marked.X, marked.y)
    classifier.labeler_.drop(1)
    n_left_out = np.sum(classifier.labeler_.cluster_labels_ < 0)
    report = ShortcutReport.from_estimator(classifier, marked.X, marked.y, n_resamples=0)
    report.save(tmp_path / "report.html", n_examples=1)
    sentence = f"{n_left_out} of 300 images are in no cluster, because theirs was dropped."
    for text in ((tmp_path / "report.html").read_text(), report._repr_html_()):
        assert sentence in Page(text).text
    assert "in no cluster" not in page.text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_labeler_takes_every_choice_of_the_page(marked, fit_classifier, tmp_path):
    labeler = PseudoGroupLabeler(KMeans(4, n_init=3, random_state=0), merge_alpha=None, n_seed_checks=0)
    classifier = fit_classifier(marked.net, marked.X, marked.y, clusterer=labeler)
    report = ShortcutReport.from_estimator(classifier, marked.X, marked.y, n_resamples=0)
    report.save(tmp_path / "report.html", n_examples=1)
    chosen = """<script>
        const of = (cluster) => document.querySelector(`.cluster[data-cluster="${cluster}"]`);
        for (const [cluster, into] of [[1, 0], [2, 0], [3, 2]]) of(cluster).querySelector(".merge").value = into;
        of(1).querySelector(".drop").checked = true;
        of(3).querySelector(".rename").value = "watermark";
        document.title = JSON.stringify(choices());
        document.querySelectorAll(".drop").forEach((box) => (box.checked = true));
        document.getElementById("export").click();
    </script></body>"""
    path = tmp_path / "chosen.html"
    path.write_text((tmp_path / "report.html").read_text().replace("</body>", chosen))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        f"--user-data-dir={tmp_path}",
        "--dump-dom",
        str(path),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    choices = json.loads(re.search(r"<title>(.*)</title>", dom)[1])
    assert choices == {"merge": [[0, 2, 3]], "drop": [1], "rename": {"3": "watermark"}}
    assert Page(dom).text.count("All clusters are dropped. Keep at least one") == 1
    assert classifier.labeler_.apply_choices(choices).cluster_names_ == {0: "watermark"}


def test_paths_in_a_series_with_its_own_index_are_shown(marked, tmp_path, fit_classifier):
    pd = pytest.importorskip("pandas")
    for place, image in enumerate(marked.X[::2]):
        Image.fromarray((255 * image.transpose(1, 2, 0)).astype(np.uint8)).save(tmp_path / f"{place}.png")
    paths = [str(tmp_path / f"{place}.png") for place in range(150)]
    X, y = pd.Series(paths, index=np.arange(150)[::-1]), pd.Series(marked.y[::2])
    report = ShortcutReport.from_estimator(fit_classifier(marked.net, X, y), X, y)
    report.save(tmp_path / "report.html", n_examples=1)
    page = Page((tmp_path / "report.html").read_text())
    for card in page.all("img", alt=".png: "):
        path, _, rest = card["alt"].partition(": ")
        assert rest.startswith(marked.y[::2][paths.index(path)])


def test_a_notebook_shows_the_findings_with_mean_maps(report):
    page = Page(report._repr_html_())
    assert " ".join(report.findings[0].split()) in page.text
    assert len(page.all("img")) == 2


def test_without_jinja2_a_notebook_shows_text(hostile_report, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    page = Page(hostile_report._repr_html_())
    assert [tag for tag, _ in page.elements] == ["pre"]


def test_many_groups_share_the_images_of_a_page(report, monkeypatch, tmp_path):
    monkeypatch.setattr("skexmap.report._gallery.MAX_IMAGES", 12)
    report.save(tmp_path / "report.html")
    assert len(Page((tmp_path / "report.html").read_text()).all("figure", **{"class": "card"})) <= 12


def test_saving_reads_only_the_images_that_it_shows(marked, tmp_path, monkeypatch):
    report = ShortcutReport.from_estimator(marked.classifier, marked.X, marked.y)
    read = []
    original = _gallery.read_images
    monkeypatch.setattr(
        _gallery, "read_images", lambda X, load, rows: read.extend(rows) or original(X, load, rows)
    )
    report.save(tmp_path / "report.html", n_examples=1)
    assert len(read) == len(set(read)) <= 12
