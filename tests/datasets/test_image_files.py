import itertools
import os
import shutil

import numpy as np
import pytest

from skexmap.datasets import load_celeba, load_image_folder, load_urbancars, load_waterbirds

SPLIT_NAMES = ["train", "validation", "test"]
URBANCARS = [
    "bg-0.95_co_occur_obj-0.95/train",
    "bg-0.5_co_occur_obj-0.5/val",
    "bg-0.5_co_occur_obj-0.5/test",
]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Waterbirds


@pytest.fixture
def birds(tmp_path):
    """A Waterbirds tree of 2, 1, 1, 2 images per group in each split."""
    rows = []
    for split, (group, n) in itertools.product(range(3), enumerate([2, 1, 1, 2])):
        y, place = divmod(group, 2)
        for i in range(n):
            name = f"{y + 1:03d}.Bird/Bird_{split}_{y}_{place}_{i}.jpg"
            touch(tmp_path / name)
            rows.append([len(rows) + 1, name, y, split, place, "/o/ocean/1.jpg"])
    write_csv(tmp_path / "metadata.csv", "img_id,img_filename,y,split,place,place_filename", rows)
    return tmp_path


def test_waterbirds_come_as_paths_with_class_place_and_group(birds):
    data = load_waterbirds(birds)
    assert list(data) == SPLIT_NAMES
    for split in data.values():
        assert all(os.path.isfile(path) for path in split.data)
        facts = np.array([os.path.basename(path).split("_")[2:4] for path in split.data], dtype=int)
        np.testing.assert_array_equal(split.target, facts[:, 0])
        np.testing.assert_array_equal(split.attributes, facts[:, 1])
        np.testing.assert_array_equal(split.group_labels, [0, 0, 1, 2, 3, 3])
        assert split.group_names[1:3] == ["landbird, water", "waterbird, land"]


@pytest.mark.parametrize(
    "load, missing",
    [
        (load_waterbirds, r"1 of 1 .*metadata\.csv"),
        (load_celeba, r"2 of 2 .*list_attr_celeba\.csv, .*list_eval_partition\.csv"),
        (load_urbancars, r"3 of 3 .*bg-0\.95_co_occur_obj-0\.95/train, .*/val, .*/test"),
        (load_image_folder, "1 of 1 .*nowhere"),
    ],
)
def test_missing_files_are_named_with_the_argument_that_leads_to_them(tmp_path, load, missing):
    with pytest.raises(FileNotFoundError, match=rf"{missing}.*Give as `(root|table)` the"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong, column", [("3,0,0", "y"), ("0,7,0", "split"), ("0,0,5", "place")])
def test_an_unknown_value_in_the_metadata_is_refused_by_column(birds, wrong, column):
    edit(birds / "metadata.csv", "0_0_1.jpg,0,0,0", f"0_0_1.jpg,{wrong}")
    unknown = wrong.replace("0", "").strip(",")
    with pytest.raises(
        ValueError, match=rf"1 of 18 values of '{column}' .* unknown: '{unknown}'\. Known are 0, 1"
    ):
        load_waterbirds(birds)


def test_a_split_without_images_is_refused(birds):
    edit(birds / "metadata.csv", ",2,", ",1,")
    with pytest.raises(ValueError, match="names no image of the split test"):
        load_waterbirds(birds)


def test_only_test_images_are_masked_on_request(birds):
    data = load_waterbirds(birds, foreground_only=True)
    masked = {name: split.transform.foreground_only for name, split in data.items()}
    assert masked == {"train": False, "validation": False, "test": True}


# CelebA


def celeba_rows():
    for number, (split, blond, male) in enumerate(itertools.product(range(3), (0, 1), (0, 1)), start=1):
        yield f"{number:06d}.jpg", split, blond, male


@pytest.fixture(params=[("csv", ","), ("txt", "  ")], ids=["csv", "txt"])
def faces(tmp_path, request):
    """A CelebA tree with one image per group and split, annotated as published."""
    kind, separator = request.param
    header = ["5_o_Clock_Shadow", "Blond_Hair", "Male", "Young"]
    tables = {
        "list_attr_celeba": [["image_id", *header]] if kind == "csv" else [[12], header],
        "list_eval_partition": [["image_id", "partition"]] if kind == "csv" else [],
    }
    for name, split, blond, male in celeba_rows():
        touch(tmp_path / "img_align_celeba" / name)
        tables["list_attr_celeba"].append([name, -1, 2 * blond - 1, 2 * male - 1, 1])
        tables["list_eval_partition"].append([name, split])
    for name, lines in tables.items():
        text = "\n".join(separator.join(map(str, line)) for line in lines)
        (tmp_path / f"{name}.{kind}").write_text(text + "\n")
    return tmp_path


def test_celeba_reads_blond_hair_and_male_from_the_published_annotations(faces):
    data = load_celeba(faces)
    assert list(data) == SPLIT_NAMES
    facts = {name: (blond, male) for name, _, blond, male in celeba_rows()}
    for split in data.values():
        assert len(split.data) == 4
        blond, male = zip(*(facts[os.path.basename(path)] for path in split.data), strict=True)
        np.testing.assert_array_equal(split.target, blond)
        np.testing.assert_array_equal(split.attributes, male)
    assert data.train.group_names[3] == "blond, male"


def test_metadata_with_the_column_spurious_goes_before_the_celeba_annotations(faces):
    rows = [[name, blond, split, 1 - male] for name, split, blond, male in celeba_rows()]
    write_csv(faces / "metadata.csv", "img_filename,y,split,spurious", rows)
    np.testing.assert_array_equal(load_celeba(faces).train.attributes, [1, 0, 1, 0])


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
    next(faces.glob("list_attr_celeba.*")).write_text(content)
    with pytest.raises(ValueError, match=r"list_attr_celeba\.\w+ (has no column|is empty)"):
        load_celeba(faces)


def test_a_celeba_image_in_two_splits_is_refused(faces):
    partition = next(faces.glob("list_eval_partition.*"))
    last = partition.read_text().splitlines()[-1]
    partition.write_text(f"{partition.read_text()}{last[:-1]}0\n")
    with pytest.raises(ValueError, match=r"1 images are named more than once in .*partition.*: 000012\.jpg"):
        load_celeba(faces)


# UrbanCars


@pytest.fixture
def cars(tmp_path):
    """An UrbanCars tree with 1 to 8 images, and a mask of each, in the eight folders of each split."""
    kinds = itertools.product(("urban", "country"), repeat=3)
    for n, (car, bg, thing) in enumerate(kinds, start=1):
        for place in URBANCARS:
            folder = tmp_path / place / f"obj-{car}_bg-{bg}_co_occur_obj-{thing}"
            folder.mkdir(parents=True)
            for i in range(n):
                (folder / f"{i:03d}.jpg").touch()
                (folder / f"{i:03d}_mask.png").touch()
    return tmp_path


def test_urbancars_takes_class_and_both_shortcuts_from_the_folder(cars):
    data = load_urbancars(cars)
    assert list(data) == SPLIT_NAMES
    for place, split in zip(URBANCARS, data.values(), strict=True):
        assert all(place in path and path.endswith(".jpg") for path in split.data)
        np.testing.assert_array_equal(np.bincount(split.group_labels), np.arange(1, 9))
        folders = [os.path.basename(os.path.dirname(path)) for path in split.data]
        np.testing.assert_array_equal(split.target, [f.startswith("obj-country") for f in folders])
        np.testing.assert_array_equal(split.background, ["bg-country" in f.split("_") for f in folders])
        np.testing.assert_array_equal(split.co_occurring_object, [f.endswith("obj-country") for f in folders])
    assert data.test.attribute_names[1:3] == ["urban + country", "country + urban"]


@pytest.mark.parametrize(
    "shortcut, sizes", [("background", [3, 7, 11, 15]), ("co_occurring_object", [4, 6, 12, 14])]
)
def test_urbancars_groups_by_one_shortcut_on_request(cars, shortcut, sizes):
    split = load_urbancars(cars, shortcut=shortcut).train
    np.testing.assert_array_equal(split.attributes, split[shortcut])
    np.testing.assert_array_equal(np.bincount(split.group_labels), sizes)


def test_an_unknown_urbancars_shortcut_is_refused():
    with pytest.raises(ValueError, match="'both', 'background' or 'co_occurring_object', got 'sky'"):
        load_urbancars("anywhere", shortcut="sky")


def test_urbancars_takes_a_correlated_validation_set_if_there_is_one(cars):
    published = load_urbancars(cars).validation
    shutil.copytree(cars / "bg-0.95_co_occur_obj-0.95/train", cars / "bg-0.95_co_occur_obj-0.95/val")
    correlated = load_urbancars(cars).validation
    assert all("bg-0.95_co_occur_obj-0.95/val" in path for path in correlated.data)
    np.testing.assert_array_equal(correlated.group_labels, published.group_labels)


@pytest.mark.parametrize("missing", [True, False])
def test_an_urbancars_group_without_images_is_refused_by_folder(cars, missing):
    folder = cars / "bg-0.5_co_occur_obj-0.5/test/obj-urban_bg-urban_co_occur_obj-urban"
    shutil.rmtree(folder)
    if not missing:
        folder.mkdir()
    match = r"test/obj-urban_bg-urban_co_occur_obj-urban is missing or holds no \.jpg files"
    with pytest.raises(FileNotFoundError, match=match):
        load_urbancars(cars)


# One's own images

COLUMNS = {"path_column": "file", "target_column": "animal"}


@pytest.fixture
def pets(tmp_path):
    rows = []
    for i in range(8):
        touch(tmp_path / "images" / f"{i}.png")
        split = ("train", "train", "val", "test")[i % 4]
        rows.append([f"images/{i}.png", ("cat", "dog")[i // 4], (10, 9)[i % 2], split])
    write_csv(tmp_path / "pets.csv", "file,animal,lens,part", rows)
    return tmp_path / "pets.csv"


def test_own_images_without_splits_or_attributes_are_one_split(pets):
    data = load_image_folder(pets, **COLUMNS)
    assert list(data) == ["all"]
    split = data["all"]
    np.testing.assert_array_equal(split.target, [0] * 4 + [1] * 4)
    assert split.target_names == ["cat", "dog"]
    assert split.attributes is split.attribute_names is split.group_labels is split.group_names is None


def test_own_images_with_splits_and_attributes_are_grouped(pets):
    data = load_image_folder(pets, attribute_column="lens", split_column="part", **COLUMNS)
    assert {name: len(split.data) for name, split in data.items()} == {"train": 4, "validation": 2, "test": 2}
    # Numbers are ordered by value: "9" before "10".
    assert data.train.attribute_names == ["9", "10"]
    np.testing.assert_array_equal(data.train.attributes, [1, 0, 1, 0])
    np.testing.assert_array_equal(data.train.group_labels, [1, 0, 3, 2])


def test_paths_are_absolute_or_relative_to_the_root_or_to_the_table(pets, tmp_path):
    elsewhere = tmp_path / "tables" / "pets.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text(pets.read_text())
    by_root = load_image_folder(elsewhere, root=tmp_path, **COLUMNS)["all"].data
    np.testing.assert_array_equal(by_root, load_image_folder(pets, **COLUMNS)["all"].data)
    edit(pets, "images/", f"{tmp_path}/images/")
    np.testing.assert_array_equal(by_root, load_image_folder(pets, **COLUMNS)["all"].data)
    with pytest.raises(
        FileNotFoundError, match=r"8 of 8 images named in .*pets\.csv do not.*4\.png and 3 more"
    ):
        load_image_folder(elsewhere, **COLUMNS)


def test_a_wrong_column_is_named_with_those_there_are(pets):
    with pytest.raises(ValueError, match=r"has no column 'target'. It has: file, animal, lens, part"):
        load_image_folder(pets, path_column="file")


@pytest.mark.parametrize("lens", [("007", "7"), ("9007199254740992", "9007199254740993"), ("1", "1.0")])
def test_two_spellings_of_a_number_are_two_attributes_in_a_fixed_order(pets, lens):
    edit(pets, ",9,", f",{lens[1]},")
    edit(pets, ",10,", f",{lens[0]},")
    data = load_image_folder(pets, attribute_column="lens", **COLUMNS)["all"]
    assert data.attribute_names == list(lens)


def test_quotes_and_blanks_around_values_do_not_matter(pets):
    edit(pets, "file,animal,lens", '"file", "animal",lens')
    edit(pets, "images/3.png,cat", '"images/3.png", "cat"')
    edit(pets, "dog", '"small, ""gray"" dog"')
    edit(pets, "images/5", "\n\nimages/5")
    split = load_image_folder(pets, **COLUMNS)["all"]
    assert split.target_names == ["cat", 'small, "gray" dog']
    np.testing.assert_array_equal(split.target, [0] * 4 + [1] * 4)


def test_a_line_of_a_quoted_value_may_look_like_a_record(pets):
    edit(pets, "images/3.png,cat", 'images/3.png,"cat\nimages/4.png,dog,9,test\n"')
    split = load_image_folder(pets, **COLUMNS)["all"]
    assert split.target_names == ["cat", "cat\nimages/4.png,dog,9,test", "dog"]
    np.testing.assert_array_equal(split.target, [0, 0, 0, 1, 2, 2, 2, 2])


@pytest.mark.parametrize(
    "content",
    ["path,target\nk\xe4fer.png,K\xe4fer\n".encode("latin-1"), b'path,target\n"1.png,cat\n'],
    ids=["latin-1", "open quote"],
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


@pytest.mark.parametrize(
    "column, old, new", [("animal", ",dog,", ",,"), ("lens", ",9,", ",  ,"), ("part", ",train", ",NaN")]
)
def test_missing_values_are_counted_by_column(pets, column, old, new):
    edit(pets, old, new)
    match = rf"4 of 8 values of '{column}' in .* are empty: numbers \d, \d, \d, \d\."
    with pytest.raises(ValueError, match=match):
        load_image_folder(pets, attribute_column="lens", split_column="part", **COLUMNS)


@pytest.mark.parametrize("content", ["", "file,animal\n"])
def test_an_empty_table_is_refused(pets, content):
    pets.write_text(content)
    with pytest.raises(ValueError, match=r"pets\.csv is empty: it names no images"):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("again", ["images/0.png", "./images/0.png", "{folder}/images/0.png"])
def test_an_image_named_twice_in_any_spelling_is_refused(pets, again):
    edit(pets, "images/7.png", again.format(folder=pets.parent))
    with pytest.raises(ValueError, match=r"1 images are named more than once in .*: .*images/0\.png\. An"):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("name", ["../secret.png", "{folder}/secret.png", "images/../../secret.png"])
def test_images_outside_the_folder_are_refused_unless_the_root_contains_them(pets, tmp_path, name):
    touch(tmp_path / "secret.png")
    table = tmp_path / "tables" / "pets.csv"
    table.parent.mkdir()
    write_csv(table, "path,target", [[name.format(folder=tmp_path), "cat"]])
    with pytest.raises(
        ValueError, match=r"1 of 1 images named in .* are outside .*secret\.png\. Give as `root`"
    ):
        load_image_folder(table)
    if name.startswith("{"):
        assert len(load_image_folder(table, root=tmp_path)["all"].data) == 1


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_data_frame_is_read_like_the_csv_file_of_its_rows(pets, library):
    frames = pytest.importorskip(library)
    expected = load_image_folder(pets, attribute_column="lens", split_column="part", **COLUMNS)
    data = load_image_folder(
        frames.read_csv(pets), pets.parent, attribute_column="lens", split_column="part", **COLUMNS
    )
    for name, split in expected.items():
        np.testing.assert_array_equal(data[name].data, split.data)
        np.testing.assert_array_equal(data[name].group_labels, split.group_labels)
    absolute = frames.DataFrame({"path": data.train.data.tolist(), "target": ["a", "b", "a", "b"]})
    np.testing.assert_array_equal(load_image_folder(absolute)["all"].data, data.train.data)
    with pytest.raises(ValueError, match="1 of 2 values of 'target' in the data frame are empty: numbers 2"):
        load_image_folder(
            frames.DataFrame({"path": ["0.png", "1.png"], "target": ["cat", None]}), pets.parent / "images"
        )


@pytest.mark.parametrize("splits", [(), ("train", "val")])
def test_folders_are_classes_and_those_around_them_may_be_splits(tmp_path, splits):
    for split, animal in itertools.product(splits or ("",), ("dog", "cat")):
        touch(tmp_path / split / animal / "young" / "1 \u00e4\n.JPG")
        touch(tmp_path / split / animal / "2 .png")
        touch(tmp_path / split / animal / "notes.txt")
        touch(tmp_path / split / animal / ".cache" / "3.png")
    data = load_image_folder(tmp_path)
    assert list(data) == (["train", "validation"] if splits else ["all"])
    for split in data.values():
        assert split.target_names == ["cat", "dog"]
        np.testing.assert_array_equal(split.target, [f"{os.sep}dog{os.sep}" in path for path in split.data])
        assert len(split.data) == 4
        assert all(os.path.isfile(path) for path in split.data)
    touch(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"images in .* are not in the folder of a class: .*stray\.png"):
        load_image_folder(tmp_path)
