import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from skexmap.datasets import load_celeba, load_image_folder, load_urbancars, load_waterbirds

Image = pytest.importorskip("PIL.Image")

SPLIT_NAMES = ("train", "validation", "test")
WATERBIRDS_SIZES = {
    "train": [3498, 184, 56, 1057],
    "validation": [467, 466, 133, 133],
    "test": [2255, 2255, 642, 642],
}
# By folder, urban cars first, each with urban and country backgrounds, each with urban and country objects.
URBANCARS_SIZES = {
    "train": [3610, 190, 190, 10, 10, 190, 190, 3610],
    "validation": [125] * 8,
    "test": [125] * 8,
}
URBANCARS_PLACES = {
    "train": "bg-0.95_co_occur_obj-0.95/train",
    "validation": "bg-0.5_co_occur_obj-0.5/val",
    "test": "bg-0.5_co_occur_obj-0.5/test",
}


def save_image(path, color=(200, 30, 60), size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def birds(tmp_path):
    """A Waterbirds tree of 2, 1, 1, 2 images per group in each split."""
    root = tmp_path / "waterbird_complete95_forest2water2"
    rows = []
    for split in range(3):
        for (y, place), n in {(0, 0): 2, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
            for i in range(n):
                name = f"{y + 1:03d}.Bird/Bird_{split}_{y}_{place}_{i}.jpg"
                save_image(root / name)
                rows.append([len(rows) + 1, name, y, split, place, "/o/ocean/1.jpg"])
    write_csv(root / "metadata.csv", "img_id,img_filename,y,split,place,place_filename", rows)
    return root


def edit(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


# Waterbirds


def test_waterbirds_come_as_paths_with_class_place_and_group(birds):
    data = load_waterbirds(birds)
    assert list(data) == list(SPLIT_NAMES)
    for split in data.values():
        assert all(os.path.isfile(path) for path in split.data)
        facts = [os.path.basename(path).split("_")[2:4] for path in split.data]
        np.testing.assert_array_equal(split.target, [int(y) for y, _ in facts])
        np.testing.assert_array_equal(split.attributes, [int(place) for _, place in facts])
        groups = {("0", "0"): 0, ("0", "1"): 1, ("1", "0"): 2, ("1", "1"): 3}
        np.testing.assert_array_equal(split.group_labels, [groups[tuple(fact)] for fact in facts])
        assert split.group_names == [
            "landbird, land",
            "landbird, water",
            "waterbird, land",
            "waterbird, water",
        ]


def test_the_column_spurious_is_read_if_there_is_no_place(birds):
    expected = load_waterbirds(birds).train.attributes
    edit(birds / "metadata.csv", "split,place,", "split,spurious,")
    np.testing.assert_array_equal(load_waterbirds(birds).train.attributes, expected)


def test_a_waterbirds_tree_of_the_published_size_has_the_published_group_sizes(tmp_path):
    image, rows = tmp_path / "one.jpg", []
    save_image(image)
    for split, name in enumerate(SPLIT_NAMES):
        for group, size in enumerate(WATERBIRDS_SIZES[name]):
            for i in range(size):
                file = f"{name}_{group}_{i}.jpg"
                os.link(image, tmp_path / file)
                rows.append([file, group // 2, split, group % 2])
    assert len(rows) == 11_788
    write_csv(tmp_path / "metadata.csv", "img_filename,y,split,place", rows)
    data = load_waterbirds(tmp_path)
    assert {
        name: np.bincount(split.group_labels).tolist() for name, split in data.items()
    } == WATERBIRDS_SIZES


def test_the_frame_has_a_row_per_image_with_the_same_facts(birds):
    pytest.importorskip("pandas")
    split = load_waterbirds(birds, as_frame=True).train
    assert list(split.frame.columns) == ["path", "target", "attribute", "group_label", "group_name"]
    np.testing.assert_array_equal(split.frame["path"], split.data)
    np.testing.assert_array_equal(split.frame["group_label"], split.group_labels)
    assert split.frame["group_name"][0] == split.group_names[split.group_labels[0]]


@pytest.mark.parametrize(
    "load, missing",
    [
        (load_waterbirds, r"1 of 1 .*metadata\.csv"),
        (load_celeba, r"2 of 2 .*list_attr_celeba\.csv, .*list_eval_partition\.csv"),
        (load_urbancars, r"3 of 3 .*bg-0\.95_co_occur_obj-0\.95/train, .*/val, .*/test"),
    ],
)
def test_a_root_without_the_files_of_a_data_set_is_refused_with_their_names(tmp_path, load, missing):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{missing}.*Give as `root` the folder"):
            load(root)


@pytest.mark.parametrize("wrong, column", [("3,0,0", "y"), ("0,7,0", "split"), ("0,0,5", "place")])
def test_an_unknown_value_in_the_metadata_is_refused_by_column(birds, wrong, column):
    edit(birds / "metadata.csv", "0_0_1.jpg,0,0,0", f"0_0_1.jpg,{wrong}")
    unknown = wrong.replace("0", "").strip(",")
    with pytest.raises(
        ValueError, match=rf"1 of 18 values of '{column}' .* unknown: '{unknown}'\. Known are 0, 1"
    ):
        load_waterbirds(birds)


def test_a_split_without_images_is_refused(birds):
    lines = (birds / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines if "Bird_2_" not in line]
    (birds / "metadata.csv").write_text("\n".join(kept))
    with pytest.raises(ValueError, match="names no image of the split test"):
        load_waterbirds(birds)


def write_masks(paths, value):
    masks = [Path(path).with_suffix(".png") for path in paths]
    for mask in masks:
        Image.new("L", (24, 20), value).save(mask)
    return masks


def test_only_test_images_are_masked_on_request(birds):
    write_masks(load_waterbirds(birds).test.data, 255)
    data = load_waterbirds(birds, foreground_only=True)
    masked = {name: split.transform.foreground_only for name, split in data.items()}
    assert masked == {"train": False, "validation": False, "test": True}


def test_missing_masks_are_counted(birds):
    with pytest.raises(FileNotFoundError, match=r"6 of 6 images named in .*metadata.csv \(as masks\) do not"):
        load_waterbirds(birds, foreground_only=True)


@pytest.mark.parametrize("value", [1, 200])
def test_masks_that_leave_nothing_of_any_image_are_refused(birds, value):
    masks = write_masks(load_waterbirds(birds).test.data, value)
    with pytest.raises(ValueError, match=r"None of the 6 masks .* has a pixel above 200 of 255.*Multiply"):
        load_waterbirds(birds, foreground_only=True)
    # One blank mask is allowed; here, all but one are blank.
    Image.new("L", (24, 20), 201).save(masks[-1])
    assert load_waterbirds(birds, foreground_only=True).test.transform.foreground_only


# CelebA


def celeba_rows():
    for number, (split, blond, male) in enumerate(itertools.product(range(3), (0, 1), (0, 1)), start=1):
        yield f"{number:06d}.jpg", split, blond, male


def write_celeba(root, kind):
    """Write a CelebA tree with one image per group and split, annotated as published."""
    header = ["5_o_Clock_Shadow", "Blond_Hair", "Male", "Young"]
    attributes, partition = [], []
    for name, split, blond, male in celeba_rows():
        save_image(root / "img_align_celeba" / name, size=(178, 218))
        attributes.append([name, -1, 2 * blond - 1, 2 * male - 1, 1])
        partition.append([name, split])
    if kind == "csv":
        write_csv(root / "list_attr_celeba.csv", ",".join(["image_id", *header]), attributes)
        write_csv(root / "list_eval_partition.csv", "image_id,partition", partition)
    else:
        lines = [str(len(attributes)), " ".join(header), *("  ".join(map(str, row)) for row in attributes)]
        (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        lines = [" ".join(map(str, row)) for row in partition]
        (root / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(params=["csv", "txt"])
def faces(tmp_path, request):
    return write_celeba(tmp_path, request.param)


def test_celeba_reads_blond_hair_and_male_from_the_published_annotations(faces):
    data = load_celeba(faces)
    facts = {name: (blond, male) for name, _, blond, male in celeba_rows()}
    for split in data.values():
        assert len(split.data) == 4
        blond, male = zip(*(facts[os.path.basename(path)] for path in split.data), strict=True)
        np.testing.assert_array_equal(split.target, blond)
        np.testing.assert_array_equal(split.attributes, male)
    assert data.train.group_names[3] == "blond, male"


def test_celeba_metadata_goes_before_the_annotations(faces):
    rows = [[name, blond, split, 1 - male] for name, split, blond, male in celeba_rows()]
    write_csv(faces / "metadata.csv", "img_filename,y,split,spurious", rows)
    np.testing.assert_array_equal(load_celeba(faces).train.attributes, [1, 0, 1, 0])


def test_celeba_images_are_found_in_the_doubled_folder_too(faces):
    (faces / "img_align_celeba").rename(faces / "moved")
    (faces / "img_align_celeba").mkdir()
    (faces / "moved").rename(faces / "img_align_celeba" / "img_align_celeba")
    assert all(os.path.isfile(path) for path in load_celeba(faces).test.data)


@pytest.mark.parametrize("place", ["", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_celeba_images_are_found_in_each_of_three_folders(faces, place):
    (faces / "img_align_celeba").rename(faces / "moved")
    folder = faces / place
    folder.mkdir(parents=True, exist_ok=True)
    for path in (faces / "moved").iterdir():
        path.rename(folder / path.name)
    assert all(os.path.dirname(path) == str(folder) for path in load_celeba(faces).test.data)


def test_celeba_without_images_names_the_usual_folder(faces):
    shutil.rmtree(faces / "img_align_celeba")
    with pytest.raises(FileNotFoundError, match=r"12 of 12 images .*img_align_celeba/000001\.jpg"):
        load_celeba(faces)


@pytest.mark.parametrize("name", ["list_attr_celeba", "list_eval_partition"])
def test_a_celeba_table_cut_short_is_refused_with_the_images_it_lacks(faces, name):
    path = next(faces.glob(f"{name}.*"))
    path.write_text("\n".join(path.read_text().splitlines()[:-2]))
    with pytest.raises(
        ValueError, match=r"2 images are named in only one of .*: 000011\.jpg, 000012\.jpg\. If"
    ):
        load_celeba(faces)


@pytest.mark.parametrize("content", ["", "0\n", "0\nBlond_Hair Male\n"])
def test_an_empty_celeba_table_is_refused(faces, content):
    path = next(faces.glob("list_attr_celeba.*"))
    path.write_text(content)
    with pytest.raises(ValueError, match=r"list_attr_celeba\.\w+ (has no column|is empty)"):
        load_celeba(faces)


def test_a_celeba_table_without_a_column_is_refused_with_those_there_are(faces):
    edit(next(faces.glob("list_attr_celeba.*")), "Blond_Hair", "Blonde")
    with pytest.raises(
        ValueError, match=r"has no column Blond_Hair\. It has: image_id, 5_o_Clock_Shadow, Blonde"
    ):
        load_celeba(faces)


def test_a_celeba_image_in_two_splits_is_refused(faces):
    partition = next(faces.glob("list_eval_partition.*"))
    last = partition.read_text().splitlines()[-1]
    partition.write_text(f"{partition.read_text()}{last[:-1]}0\n")
    with pytest.raises(ValueError, match=r"1 images are named more than once in .*partition.*: 000012\.jpg"):
        load_celeba(faces)


def test_an_unknown_celeba_annotation_is_refused_by_column(faces):
    path = next(faces.glob("list_eval_partition.*"))
    path.write_text(path.read_text().rstrip()[:-1] + "3\n")
    with pytest.raises(
        ValueError, match=r"1 of 12 values of 'partition' .* unknown: '3'\. Known are 0, 1, 2"
    ):
        load_celeba(faces)


# UrbanCars


@pytest.fixture
def cars(tmp_path):
    """An UrbanCars tree with 1 to 8 images, and two masks of each, in the eight folders of each split."""
    kinds = itertools.product(("urban", "country"), repeat=3)
    for n, (car, bg, thing) in enumerate(kinds, start=1):
        for place in URBANCARS_PLACES.values():
            folder = tmp_path / place / f"obj-{car}_bg-{bg}_co_occur_obj-{thing}"
            for i in range(n):
                for name in (f"{i:03d}.jpg", f"{i:03d}_mask.png", f"{i:03d}_co_occur_obj_mask.png"):
                    save_image(folder / name)
    return tmp_path


def test_urbancars_takes_class_and_both_shortcuts_from_the_folder(cars):
    data = load_urbancars(cars)
    for name, split in data.items():
        assert all(URBANCARS_PLACES[name] in path for path in split.data)
        np.testing.assert_array_equal(np.bincount(split.group_labels), np.arange(1, 9))
        folders = [os.path.basename(os.path.dirname(path)) for path in split.data]
        np.testing.assert_array_equal(split.target, [f.startswith("obj-country") for f in folders])
        np.testing.assert_array_equal(split.background, ["bg-country" in f.split("_") for f in folders])
        np.testing.assert_array_equal(split.co_occurring_object, [f.endswith("obj-country") for f in folders])
    assert data.test.attribute_names == [
        "urban + urban",
        "urban + country",
        "country + urban",
        "country + country",
    ]


def test_an_urbancars_tree_of_the_published_size_has_the_published_group_sizes(tmp_path):
    for name, place in URBANCARS_PLACES.items():
        kinds = itertools.product(("urban", "country"), repeat=3)
        for (car, bg, thing), size in zip(kinds, URBANCARS_SIZES[name], strict=True):
            folder = tmp_path / place / f"obj-{car}_bg-{bg}_co_occur_obj-{thing}"
            folder.mkdir(parents=True)
            for i in range(size):
                (folder / f"{i:03d}.jpg").touch()
    data = load_urbancars(tmp_path)
    assert {name: len(split.data) for name, split in data.items()} == {
        "train": 8000,
        "validation": 1000,
        "test": 1000,
    }
    sizes = {name: np.bincount(split.group_labels).tolist() for name, split in data.items()}
    assert sizes == URBANCARS_SIZES


@pytest.mark.parametrize(
    "shortcut, sizes", [("background", [3, 7, 11, 15]), ("co_occurring_object", [4, 6, 12, 14])]
)
def test_urbancars_groups_by_one_shortcut_on_request(cars, shortcut, sizes):
    split = load_urbancars(cars, shortcut=shortcut).train
    np.testing.assert_array_equal(split.attributes, split[shortcut])
    np.testing.assert_array_equal(np.bincount(split.group_labels), sizes)


def test_urbancars_frames_have_both_shortcuts(cars):
    pytest.importorskip("pandas")
    frame = load_urbancars(cars, as_frame=True).test.frame
    assert {"background", "co_occurring_object"} <= set(frame.columns)


def test_an_unknown_urbancars_shortcut_is_refused():
    with pytest.raises(
        ValueError, match="shortcut must be one of 'both', 'background', 'co_occurring_object'"
    ):
        load_urbancars("anywhere", shortcut="sky")


def test_the_masks_beside_urbancars_images_are_not_images(cars):
    data = load_urbancars(cars)
    assert len(data.train.data) == 36
    assert not any("mask" in os.path.basename(path) for split in data.values() for path in split.data)


def test_urbancars_takes_a_correlated_validation_set_if_there_is_one(cars):
    published = load_urbancars(cars).validation
    assert all("bg-0.5_co_occur_obj-0.5" in path for path in published.data)
    shutil.copytree(cars / URBANCARS_PLACES["train"], cars / "bg-0.95_co_occur_obj-0.95" / "val")
    correlated = load_urbancars(cars).validation
    assert all("bg-0.95_co_occur_obj-0.95/val" in path for path in correlated.data)
    np.testing.assert_array_equal(correlated.group_labels, published.group_labels)


@pytest.mark.parametrize("what", ["missing", "without images", "a file"])
def test_an_urbancars_group_without_images_is_refused_by_folder(cars, what):
    folder = cars / URBANCARS_PLACES["test"] / "obj-urban_bg-urban_co_occur_obj-urban"
    shutil.rmtree(folder)
    if what == "without images":
        folder.mkdir()
    if what == "a file":
        folder.touch()
    match = r"test/obj-urban_bg-urban_co_occur_obj-urban is missing or holds no \.jpg files"
    with pytest.raises(FileNotFoundError, match=match):
        load_urbancars(cars)


# One's own images


@pytest.fixture
def pets(tmp_path):
    rows = []
    for i in range(8):
        save_image(tmp_path / "images" / f"{i}.png")
        split = ("train", "train", "val", "test")[i % 4]
        rows.append([f"images/{i}.png", ("cat", "dog")[i // 4], (10, 9)[i % 2], split])
    write_csv(tmp_path / "pets.csv", "file,animal,lens,part", rows)
    return tmp_path / "pets.csv"


COLUMNS = {"path_column": "file", "target_column": "animal"}


def test_own_images_without_splits_or_attributes_are_one_split(pets):
    data = load_image_folder(pets, **COLUMNS)
    assert list(data) == ["all"]
    split = data["all"]
    np.testing.assert_array_equal(split.target, [0] * 4 + [1] * 4)
    assert split.target_names == ["cat", "dog"]
    assert split.attributes is split.group_labels is split.group_names is None


def test_own_images_with_splits_and_attributes_are_grouped(pets):
    data = load_image_folder(pets, attribute_column="lens", split_column="part", **COLUMNS)
    assert {name: len(split.data) for name, split in data.items()} == {"train": 4, "validation": 2, "test": 2}
    # Numbers are ordered by value: "9" before "10".
    assert data.train.attribute_names == ["9", "10"]
    np.testing.assert_array_equal(data.train.attributes, [1, 0, 1, 0])
    np.testing.assert_array_equal(data.train.group_labels, [1, 0, 3, 2])


def test_paths_are_relative_to_the_root_or_to_the_table(pets, tmp_path):
    elsewhere = tmp_path / "tables" / "pets.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text(pets.read_text())
    by_root = load_image_folder(elsewhere, root=tmp_path, **COLUMNS)["all"].data
    by_table = load_image_folder(pets, **COLUMNS)["all"].data
    assert [os.path.samefile(a, b) for a, b in zip(by_root, by_table, strict=True)] == [True] * 8
    with pytest.raises(FileNotFoundError, match="8 of 8 images"):
        load_image_folder(elsewhere, **COLUMNS)


def test_absolute_paths_stay_as_they_are(pets, tmp_path):
    edit(pets, "images/", f"{tmp_path}/images/")
    assert len(load_image_folder(pets, root="/nowhere", **COLUMNS)["all"].data) == 8


def test_a_wrong_column_is_named_with_those_there_are(pets):
    with pytest.raises(ValueError, match=r"has no column target. It has: file, animal, lens, part"):
        load_image_folder(pets, path_column="file")


def test_an_unknown_split_of_ones_own_is_refused(pets):
    edit(pets, ",val", ",holdout")
    with pytest.raises(
        ValueError, match=r"2 of 8 values of 'part' .* unknown: 'holdout'\. Known are train, "
    ):
        load_image_folder(pets, split_column="part", **COLUMNS)


@pytest.mark.parametrize("lens", [("007", "7"), ("9007199254740992", "9007199254740993"), ("1", "1.0")])
def test_two_spellings_of_a_number_are_two_attributes_in_a_fixed_order(pets, lens):
    edit(pets, ",9,", f",{lens[1]},")
    edit(pets, ",10,", f",{lens[0]},")
    data = load_image_folder(pets, attribute_column="lens", **COLUMNS)["all"]
    assert data.attribute_names == list(lens)


def test_quotes_and_blanks_around_values_do_not_matter(pets):
    edit(pets, "file,animal,lens", '"file", "animal",lens')
    edit(pets, "images/3.png,cat", '"images/3.png", "cat"')
    edit(pets, "dog", '"small, ""grey"" dog"')
    edit(pets, "images/5", "\n\nimages/5")
    split = load_image_folder(pets, **COLUMNS)["all"]
    assert split.target_names == ["cat", 'small, "grey" dog']
    np.testing.assert_array_equal(split.target, [0] * 4 + [1] * 4)


@pytest.mark.parametrize(
    "content",
    [
        "path,target\nk\xe4fer.png,K\xe4fer\n".encode("latin-1"),
        b"\x89PNG\r\n\x1a\n\0",
        b'path,target\n"1.png,cat\n',
    ],
    ids=["latin-1", "image", "open quote"],
)
def test_a_file_that_is_not_a_csv_file_is_refused_by_name(pets, content):
    pets.write_bytes(content)
    with pytest.raises(ValueError, match=r"pets\.csv is not a CSV file in UTF-8"):
        load_image_folder(pets)


@pytest.mark.parametrize("line", ["images/3.png,cat,10", "images/3.png,cat,10,test,3"])
def test_lines_with_another_number_of_values_than_the_first_are_counted(pets, line):
    edit(pets, "images/3.png,cat,9,test", line)
    with pytest.raises(ValueError, match=r"1 of 8 lines of .* do not have 4 values; .* images/3\.png\."):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("value", ["", "  ", "nan", "NaN"])
@pytest.mark.parametrize("column, old", [("animal", ",dog,"), ("lens", ",9,"), ("part", ",train")])
def test_missing_values_are_counted_by_column(pets, value, column, old):
    edit(pets, old, old.replace(old.strip(","), value))
    with pytest.raises(
        ValueError, match=rf"4 of 8 values of '{column}' in .* are empty: numbers \d, \d, \d, \d\."
    ):
        load_image_folder(pets, attribute_column="lens", split_column="part", **COLUMNS)


def test_images_that_do_not_exist_are_counted_and_the_first_five_named(pets):
    shutil.rmtree(pets.parent / "images")
    with pytest.raises(
        FileNotFoundError, match=r"8 of 8 images named in .*pets\.csv do not.*4\.png and 3 more"
    ):
        load_image_folder(pets, **COLUMNS)


def test_one_class_only_is_refused(pets):
    edit(pets, "dog", "cat")
    with pytest.raises(ValueError, match=r"one class only \('cat'\) in the column 'animal'"):
        load_image_folder(pets, **COLUMNS)


def test_a_table_that_does_not_exist_is_refused_by_name(pets):
    with pytest.raises(FileNotFoundError, match=r"1 of 1 .* missing: .*cats\.csv\. Give as `table`"):
        load_image_folder(pets.with_name("cats.csv"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("", r"has no column file, animal\. It has: nothing"),
        ("file,animal\n", "is empty: it has columns, but names no"),
    ],
)
def test_an_empty_table_is_refused(pets, content, message):
    pets.write_text(content)
    with pytest.raises(ValueError, match=rf"pets\.csv {message}"):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("again", ["images/0.png", "./images/0.png", "{folder}/images/0.png"])
def test_an_image_named_twice_in_any_spelling_is_refused(pets, again):
    edit(pets, "images/7.png", again.format(folder=pets.parent))
    with pytest.raises(ValueError, match=r"1 images are named more than once in .*: .*images/0\.png\. An"):
        load_image_folder(pets, **COLUMNS)


def test_the_frame_of_images_without_attributes_has_path_and_target(pets):
    pytest.importorskip("pandas")
    frame = load_image_folder(pets, as_frame=True, **COLUMNS)["all"].frame
    assert list(frame.columns) == ["path", "target"]


def test_paths_and_transform_go_straight_into_the_transformers(birds):
    torch = pytest.importorskip("torch")
    from skexmap import EmbeddingTransformer

    split = load_waterbirds(birds).train
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 7, stride=16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(2 * 14 * 14, 2),
    )
    from_paths = EmbeddingTransformer(net, load=split.transform).fit_transform(split.data)
    pixels = np.stack([split.transform(path) for path in split.data])
    np.testing.assert_allclose(from_paths, EmbeddingTransformer(net).fit_transform(pixels), rtol=1e-5)
