import itertools
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from skexmap.datasets import (
    ImageNetTransform,
    load_celeba,
    load_image_folder,
    load_urbancars,
    load_waterbirds,
)

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


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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


def test_the_column_spurious_is_read_where_there_is_no_place(birds):
    expected = load_waterbirds(birds).train.attributes
    edit(birds / "metadata.csv", "split,place,", "split,spurious,")
    np.testing.assert_array_equal(load_waterbirds(birds).train.attributes, expected)


def test_a_tree_of_the_published_size_has_the_published_group_sizes(tmp_path):
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


def test_missing_metadata_is_named_with_what_the_folder_holds(birds):
    (birds / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv; .* holds 001\.Bird, 002\.Bird"):
        load_waterbirds(birds)


def test_a_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        load_waterbirds(tmp_path / "nowhere")


@pytest.mark.parametrize("load", [load_waterbirds, load_celeba, load_urbancars])
def test_a_root_that_is_a_file_is_called_a_file(birds, load):
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv is a file and no folder"):
        load(birds / "metadata.csv")


@pytest.mark.parametrize("column", ["img_filename", "y", "split"])
def test_a_missing_column_is_named_with_those_there_are(birds, column):
    edit(birds / "metadata.csv", f"{column}", "something", count=1)
    with pytest.raises(ValueError, match=f"has no column {column}. It has: img_id,"):
        load_waterbirds(birds)


def test_absent_images_are_counted_and_the_first_five_named(birds):
    gone = sorted((birds / "001.Bird").iterdir())
    for path in gone:
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"9 of 18 images named in .* are absent: .*Bird_0_0_0_0.* and 4 more"
    ):
        load_waterbirds(birds)


def test_an_unknown_split_is_refused_with_its_line(birds):
    edit(birds / "metadata.csv", "0_0_1.jpg,0,0,0", "0_0_1.jpg,0,7,0")
    with pytest.raises(
        ValueError, match=r"1 of 18 lines .* unknown split: '7' \(lines 3\)\. Known are 0, 1, 2"
    ):
        load_waterbirds(birds)


@pytest.mark.parametrize("wrong, column", [("3,0,0", "y"), ("0,0,5", "place")])
def test_an_unknown_class_or_place_is_refused_by_column(birds, wrong, column):
    edit(birds / "metadata.csv", "0_0_1.jpg,0,0,0", f"0_0_1.jpg,{wrong}")
    with pytest.raises(ValueError, match=f"1 of 18 lines .* have an unknown {column}"):
        load_waterbirds(birds)


@pytest.mark.parametrize(
    "old, new, what",
    [
        ("0_0_1.jpg,0,0,0,/o/ocean/1.jpg", "0_0_1.jpg,0", "have too few values"),
        ("0_0_1.jpg,0,0,0,/o/ocean/1.jpg", "0_0_1.jpg,0,0,0,/o/ocean,1.jpg", "have too many values"),
        ("001.Bird/Bird_0_0_0_1.jpg", "", "have no img_filename"),
    ],
)
def test_a_line_with_values_missing_or_left_over_is_refused_with_its_number(birds, old, new, what):
    edit(birds / "metadata.csv", old, new)
    with pytest.raises(ValueError, match=rf"1 of 18 lines of .* {what}: lines 3\."):
        load_waterbirds(birds)


def insert_line(path, number, line):
    """Put a line into a file so that it is the one of that number, counted from 1."""
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[: number - 1], line, *lines[number - 1 :]]))


@pytest.mark.parametrize("blank", ["", "  "])
def test_lines_are_counted_as_in_the_file_where_some_are_blank(birds, blank):
    insert_line(birds / "metadata.csv", 1, blank)
    insert_line(birds / "metadata.csv", 3, blank)
    sizes = {name: len(split.data) for name, split in load_waterbirds(birds).items()}
    assert sizes == {"train": 6, "validation": 6, "test": 6}
    edit(birds / "metadata.csv", "0_0_1.jpg,0,0,0", "0_0_1.jpg,0,7,0")
    with pytest.raises(ValueError, match=r"1 of 18 lines .* unknown split: '7' \(lines 5\)"):
        load_waterbirds(birds)
    edit(birds / "metadata.csv", "0_0_1.jpg,0,7,0,/o/ocean/1.jpg", "0_0_1.jpg")
    with pytest.raises(ValueError, match=r"1 of 18 lines of .* have too few values: lines 5\."):
        load_waterbirds(birds)


def test_quotes_and_blanks_around_names_of_columns_do_not_matter(birds):
    expected = load_waterbirds(birds).test
    edit(birds / "metadata.csv", "img_filename,y,split,place", '"img_filename", "y", "split", "spurious"')
    np.testing.assert_array_equal(load_waterbirds(birds).test.group_labels, expected.group_labels)


def test_metadata_that_is_no_text_or_a_folder_is_named(birds):
    path = birds / "metadata.csv"
    path.write_bytes(path.read_text().replace("Bird_0", "V\xf6gel").encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata\.csv is no text file in UTF-8"):
        load_waterbirds(birds)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv is a folder\. Give the file"):
        load_waterbirds(birds)


def test_a_split_without_images_is_refused(birds):
    lines = (birds / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines if "Bird_2_" not in line]
    (birds / "metadata.csv").write_text("\n".join(kept))
    with pytest.raises(ValueError, match="names no image of the split test"):
        load_waterbirds(birds)


def give_one_class(birds, split):
    path = birds / "metadata.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line[2] = "1" if line[3] == str(SPLIT_NAMES.index(split)) else line[2]
    path.write_text("\n".join(map(",".join, lines)))


def test_waterbirds_of_one_class_are_refused_by_split_and_class(birds):
    give_one_class(birds, "validation")
    with pytest.raises(
        ValueError, match=r"1 of 3 splits .* one class only: validation \('waterbird'\)\. Take"
    ):
        load_waterbirds(birds)
    give_one_class(birds, "train")
    with pytest.raises(
        ValueError, match=r"2 of 3 splits .*: train \('waterbird'\), validation \('waterbird'\)"
    ):
        load_waterbirds(birds)


def test_test_images_of_one_class_are_accepted(birds):
    give_one_class(birds, "test")
    assert load_waterbirds(birds).test.target.tolist() == [1] * 6


def test_an_image_named_twice_is_refused(birds):
    edit(birds / "metadata.csv", "Bird_2_0_0_0.jpg", "Bird_0_0_0_0.jpg")
    with pytest.raises(ValueError, match=r"1 images are named more than once.*Bird_0_0_0_0\.jpg"):
        load_waterbirds(birds)


@pytest.mark.parametrize("verify", ["quick", "full"])
def test_truncated_empty_and_fake_images_are_counted_and_named(birds, verify):
    truncated, empty, fake, *_ = sorted((birds / "002.Bird").iterdir())
    truncate(truncated)
    empty.write_bytes(b"")
    fake.write_text("not an image")
    with pytest.raises(ValueError, match=r"3 of 18 images .* are truncated or unreadable") as caught:
        load_waterbirds(birds, verify=verify)
    assert all(path.name in str(caught.value) for path in (truncated, empty, fake))


def test_damage_inside_a_file_is_found_by_the_full_check(birds):
    path = next((birds / "002.Bird").iterdir())
    content = path.read_bytes()
    # The tables are gone, but the first and last bytes are those of a JPEG.
    path.write_bytes(content[:4] + content[-2:])
    load_waterbirds(birds, verify="quick")
    with pytest.raises(ValueError, match="1 of 18 images"):
        load_waterbirds(birds, verify="full")


def test_files_that_cannot_be_read_are_counted_and_named(birds):
    paths = [birds / f"001.Bird/Bird_0_0_0_{i}.jpg" for i in range(2)]
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("needs a file whose first bytes cannot be read")
    for path in paths:
        path.unlink()
        path.symlink_to("/proc/self/mem")
    with pytest.raises(
        ValueError, match=r"2 of 18 images .* truncated or unreadable: .*_0\.jpg, .*_1\.jpg\."
    ):
        load_waterbirds(birds)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_counted_and_named(birds):
    (birds / "001.Bird/Bird_0_0_0_0.jpg").chmod(0)
    with pytest.raises(ValueError, match=r"1 of 18 images .* truncated or unreadable: .*_0_0_0_0\.jpg\."):
        load_waterbirds(birds)


def test_an_image_with_bytes_after_its_end_is_whole(birds):
    path = next((birds / "002.Bird").iterdir())
    path.write_bytes(path.read_bytes() + bytes(100))
    assert len(load_waterbirds(birds).train.data) == 6


def test_existence_alone_is_checked_on_request(birds):
    truncate(next((birds / "002.Bird").iterdir()))
    assert len(load_waterbirds(birds, verify="exists").train.data) == 6


def test_an_unknown_check_is_refused(birds):
    with pytest.raises(ValueError, match="verify must be one of 'exists', 'quick', 'full', got 'deep'"):
        load_waterbirds(birds, verify="deep")


def test_foreground_only_blackens_what_the_mask_leaves_out_of_test_images_alone(birds):
    paths = load_waterbirds(birds).test.data
    for path in paths:
        mask = np.zeros((20, 24), dtype=np.uint8)
        mask[:, :8], mask[:, 8:16], mask[:, 16:] = 255, 200, 201
        Image.fromarray(mask).save(os.path.splitext(path)[0] + ".png")
    data = load_waterbirds(birds, foreground_only=True)
    assert data.test.transform.foreground_only
    assert not data.train.transform.foreground_only
    plain, masked = ImageNetTransform()(paths[0]), data.test.transform(paths[0])
    black = (np.zeros(3) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Resizing mixes a few columns at each border of the three bands.
    np.testing.assert_allclose(masked[:, :, :60], plain[:, :, :60], atol=1e-6)
    np.testing.assert_allclose(masked[:, :, 90:140], black[:, None, None] * np.ones((3, 224, 50)), atol=1e-6)
    np.testing.assert_allclose(masked[:, :, 170:], plain[:, :, 170:], atol=1e-6)


def test_missing_masks_are_counted(birds):
    with pytest.raises(
        FileNotFoundError, match=r"6 of 6 images named in .*metadata.csv \(as masks\) are absent"
    ):
        load_waterbirds(birds, foreground_only=True)


def test_a_mask_of_another_size_is_refused(birds):
    paths = load_waterbirds(birds).test.data
    for path in paths:
        Image.new("L", (10, 10), 255).save(os.path.splitext(path)[0] + ".png")
    with pytest.raises(ValueError, match=r"6 of 6 masks .* differ in size from their images: .*_0\.png"):
        load_waterbirds(birds, foreground_only=True)
    transform = load_waterbirds(birds, foreground_only=True, verify="exists").test.transform
    with pytest.raises(ValueError, match=r"has the size \(10, 10\), its image .* \(24, 20\)"):
        transform(paths[0])


def write_masks(paths, value):
    masks = [pathlib.Path(path).with_suffix(".png") for path in paths]
    for mask in masks:
        Image.new("L", (24, 20), value).save(mask)
    return masks


@pytest.mark.parametrize("value", [1, 200])
def test_masks_that_leave_nothing_of_any_image_are_refused(birds, value):
    masks = write_masks(load_waterbirds(birds).test.data, value)
    with pytest.raises(
        ValueError, match=r"None of the 6 masks .* has a pixel above 200 of 255.* and 1 more\. Multiply"
    ):
        load_waterbirds(birds, foreground_only=True)
    load_waterbirds(birds, foreground_only=True, verify="exists")
    # One bird may be beyond the annotators, and leave its image black.
    Image.new("L", (24, 20), 201).save(masks[-1])
    assert load_waterbirds(birds, foreground_only=True).test.transform.foreground_only


def test_a_mask_with_damage_inside_is_left_for_later_by_the_quick_check(birds):
    mask, *_ = write_masks(load_waterbirds(birds).test.data, 255)
    content = bytearray(mask.read_bytes())
    # The pixels of the first mask are no stream that could be unpacked.
    content[content.index(b"IDAT") + 4] ^= 0xFF
    mask.write_bytes(content)
    assert load_waterbirds(birds, foreground_only=True).test.transform.foreground_only
    with pytest.raises(ValueError, match=r"1 of 6 images .* \(as masks\) are truncated or unreadable"):
        load_waterbirds(birds, foreground_only=True, verify="full")


def test_an_image_that_would_be_its_own_mask_is_refused(birds):
    paths = load_waterbirds(birds).test.data
    write_masks(paths[1:], 255)
    own = pathlib.Path(paths[0]).with_suffix(".png")
    save_image(own)
    edit(birds / "metadata.csv", "Bird_2_0_0_0.jpg", own.name)
    assert len(load_waterbirds(birds).test.data) == 6
    for verify in ("quick", "exists"):
        with pytest.raises(ValueError, match=r"1 of 6 images .* PNG files.*Bird_2_0_0_0\.png\. Save"):
            load_waterbirds(birds, foreground_only=True, verify=verify)
    with pytest.raises(ValueError, match=r"Bird_2_0_0_0\.png is a PNG file, and so would be its own mask"):
        ImageNetTransform(foreground_only=True)(own)


def test_a_capital_extension_is_no_mask_of_its_own(birds):
    paths = load_waterbirds(birds).test.data
    write_masks(paths, 255)
    image = pathlib.Path(paths[0]).with_suffix(".PNG")
    if image.exists():
        pytest.skip("this file system takes .PNG and .png for one")
    save_image(image)
    edit(birds / "metadata.csv", "Bird_2_0_0_0.jpg", image.name)
    data = load_waterbirds(birds, foreground_only=True)
    assert data.test.transform(data.test.data[0]).shape == (3, 224, 224)


def test_masks_that_are_all_damaged_inside_are_called_unreadable(birds):
    paths = load_waterbirds(birds).test.data
    write_masks(paths, 255)
    for path in paths:
        mask = pathlib.Path(path).with_suffix(".png")
        content = bytearray(mask.read_bytes())
        content[45:-12] = bytes(len(content) - 57)
        mask.write_bytes(content)
    with pytest.raises(ValueError, match=r"6 of 6 images .*as masks.* truncated or unreadable"):
        load_waterbirds(birds, foreground_only=True)


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


@pytest.fixture
def faces_in_text(tmp_path):
    return write_celeba(tmp_path, "txt")


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


def test_celeba_without_images_names_the_usual_folder(faces):
    for path in (faces / "img_align_celeba").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"12 of 12 images .*img_align_celeba/000001\.jpg"):
        load_celeba(faces)


@pytest.mark.parametrize("place", ["", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_celeba_images_are_looked_for_where_most_of_them_are(faces, place):
    (faces / "img_align_celeba").rename(faces / "moved")
    folder = faces / place
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((faces / "moved").iterdir())[1:]:
        path.rename(folder / path.name)
    with pytest.raises(FileNotFoundError, match=r"1 of 12 images .* are absent: .*000001\.jpg\.") as caught:
        load_celeba(faces)
    assert f"{folder / '000001.jpg'}." in str(caught.value)


def test_the_folder_of_celeba_is_chosen_once_by_a_few_images(faces, monkeypatch):
    looked_for = []
    is_file = pathlib.Path.is_file

    def counted(path):
        looked_for.append(path.name)
        return is_file(path)

    monkeypatch.setattr(pathlib.Path, "is_file", counted)
    monkeypatch.setattr("skexmap.datasets._image_files.N_LOOKED_FOR", 2)
    load_celeba(faces)
    # In each of the three folders that may hold them.
    assert looked_for == ["000001.jpg", "000002.jpg"] * 3


def cut_short(path, n_lines):
    path.write_text("\n".join(path.read_text().splitlines()[:-n_lines]))


def test_a_celeba_table_cut_short_is_refused(faces):
    path = next(faces.glob("list_attr_celeba.*"))
    cut_short(path, 3)
    missing = (
        r"3 of 12 images of .*partition\.csv have no attributes in .*: 000010\.jpg, 000011\.jpg, 000012\.jpg"
    )
    count = r"list_attr_celeba\.txt says in its first line that it has '12' images, and has 9\."
    with pytest.raises(ValueError, match=missing if path.suffix == ".csv" else count):
        load_celeba(faces)


def test_celeba_tables_cut_short_at_one_place_disagree_with_the_number_of_images(faces_in_text):
    path = faces_in_text / "list_attr_celeba.txt"
    cut_short(path, 3)
    cut_short(faces_in_text / "list_eval_partition.txt", 3)
    with pytest.raises(ValueError, match=r"'12' images, and has 9\. If it was cut short, get the whole file"):
        load_celeba(faces_in_text)


def test_celeba_text_without_its_number_of_images_is_refused(faces_in_text):
    path = faces_in_text / "list_attr_celeba.txt"
    edit(path, "12\n", "many\n", count=1)
    with pytest.raises(ValueError, match=r"has 'many' images, and has 12\..* put the number of images there"):
        load_celeba(faces_in_text)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("list_attr_celeba", "", r"has no column Blond_Hair, Male\. It has no second line"),
        ("list_attr_celeba", "0\nBlond_Hair Male\n", "names no images"),
        ("list_eval_partition", "\n", "names no images"),
    ],
)
def test_celeba_text_without_columns_or_images_is_refused(faces_in_text, name, content, message):
    (faces_in_text / f"{name}.txt").write_text(content)
    with pytest.raises(ValueError, match=rf"{name}\.txt {message}"):
        load_celeba(faces_in_text)


def test_celeba_without_the_column_says_which(faces):
    edit(next(faces.glob("list_attr_celeba.*")), "Blond_Hair", "Blonde")
    with pytest.raises(ValueError, match=r"has no column Blond_Hair. It has: "):
        load_celeba(faces)


def test_celeba_images_without_a_split_are_counted(faces):
    partition = next(faces.glob("list_eval_partition.*"))
    cut_short(partition, 2)
    with pytest.raises(
        ValueError, match=r"2 of 12 images of .* have no split in .*: 000011\.jpg, 000012\.jpg"
    ):
        load_celeba(faces)


def test_a_celeba_image_in_two_splits_is_refused(faces):
    partition = next(faces.glob("list_eval_partition.*"))
    first = partition.read_text().splitlines()[-1]
    partition.write_text(f"{partition.read_text()}{first[:-1]}0\n")
    with pytest.raises(
        ValueError, match=r"1 images are named more than once in .*list_eval_partition.*: 000012\.jpg"
    ):
        load_celeba(faces)


def test_celeba_lines_are_counted_as_in_the_file(faces):
    attributes = next(faces.glob("list_attr_celeba.*"))
    head = 1 if attributes.suffix == ".csv" else 2
    insert_line(attributes, head + 1, "")
    assert len(load_celeba(faces).train.data) == 4
    edit(attributes, "000002.jpg", "000002.jpg 1,1")
    with pytest.raises(ValueError, match=rf"1 of 12 lines of .* values: lines {head + 3}\."):
        load_celeba(faces)


def test_an_unknown_blond_hair_is_refused_with_its_line(faces):
    path = next(faces.glob("list_attr_celeba.*"))
    lines = path.read_text().split("\n")
    head = 1 if path.suffix == ".csv" else 2
    separator = "," if path.suffix == ".csv" else "  "
    lines[head + 2] = separator.join(["000003.jpg", "-1", "2", "1", "1"])
    path.write_text("\n".join(lines))
    with pytest.raises(
        ValueError,
        match=rf"1 of 12 lines .* unknown Blond_Hair: '2' \(lines {head + 3}\)\. Known are -1, 0, 1",
    ):
        load_celeba(faces)


def test_an_unknown_partition_is_refused_with_its_line(faces):
    path = next(faces.glob("list_eval_partition.*"))
    separator, line = (",", 13) if path.suffix == ".csv" else (" ", 12)
    edit(path, f"000012.jpg{separator}2", f"000012.jpg{separator}3")
    with pytest.raises(ValueError, match=rf"1 of 12 lines .* unknown partition: '3' \(lines {line}\)"):
        load_celeba(faces)


def test_celeba_annotations_that_are_no_text_are_named(faces):
    path = next(faces.glob("list_attr_celeba.*"))
    path.write_bytes(path.read_text().replace("Young", "J\xfcng").encode("latin-1"))
    with pytest.raises(ValueError, match=r"list_attr_celeba\.\w+ is no text file in UTF-8"):
        load_celeba(faces)


def test_celeba_without_annotations_names_both_and_the_other_choice(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"2 of 2 .* missing: .*list_attr_celeba\.csv, .*partition\.csv; .* has metadata\.csv, or .*\.txt",
    ):
        load_celeba(tmp_path)


def test_a_missing_celeba_partition_is_named_alone(faces):
    next(faces.glob("list_eval_partition.*")).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 .* missing: [^,]*list_eval_partition\.csv; .* holds"
    ):
        load_celeba(faces)


def test_celeba_faces_of_one_class_are_refused_by_split_and_class(faces_in_text):
    rows = [[name, int(blond or split == 0), split, male] for name, split, blond, male in celeba_rows()]
    write_csv(faces_in_text / "metadata.csv", "img_filename,y,split,spurious", rows)
    with pytest.raises(ValueError, match=r"1 of 3 splits .* one class only: train \('blond'\)\."):
        load_celeba(faces_in_text)


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
    data = load_urbancars(tmp_path, verify="exists")
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


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(
        ValueError, match="shortcut must be one of 'both', 'background', 'co_occurring_object'"
    ):
        load_urbancars("anywhere", shortcut="sky")


def test_the_masks_beside_urbancars_images_are_no_images(cars):
    data = load_urbancars(cars)
    assert len(data.train.data) == 36
    assert not any("mask" in os.path.basename(path) for split in data.values() for path in split.data)


def test_urbancars_takes_a_correlated_validation_set_where_there_is_one(cars):
    published = load_urbancars(cars).validation
    assert all("bg-0.5_co_occur_obj-0.5" in path for path in published.data)
    shutil.copytree(cars / URBANCARS_PLACES["train"], cars / "bg-0.95_co_occur_obj-0.95" / "val")
    correlated = load_urbancars(cars).validation
    assert all("bg-0.95_co_occur_obj-0.95/val" in path for path in correlated.data)
    np.testing.assert_array_equal(correlated.group_labels, published.group_labels)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_urbancars_split_is_named(cars, split):
    (cars / URBANCARS_PLACES[split]).rename(cars / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"1 of 3 .* missing: .*{URBANCARS_PLACES[split]}"):
        load_urbancars(cars)


def test_a_file_in_place_of_an_urbancars_split_is_named(cars):
    place = cars / URBANCARS_PLACES["test"]
    place.rename(cars / "elsewhere")
    place.write_text("moved elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 3 folders are files: .*bg-0\.5_co_occur_obj-0\.5/test\. Give"
    ):
        load_urbancars(cars)


def test_a_file_in_place_of_an_urbancars_group_is_named(cars):
    folder = cars / URBANCARS_PLACES["train"] / "obj-urban_bg-urban_co_occur_obj-urban"
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 8 folders are files: .*/obj-urban_bg-urban_co_occur_obj-urban"
    ):
        load_urbancars(cars)


def test_an_unknown_urbancars_folder_is_named(cars):
    (cars / URBANCARS_PLACES["train"] / "obj-rural_bg-urban_co_occur_obj-urban").mkdir()
    with pytest.raises(
        ValueError, match=r"1 of 9 folders .* unknown name: obj-rural_bg-urban_co_occur_obj-urban"
    ):
        load_urbancars(cars)


def test_a_missing_urbancars_group_folder_is_named(cars):
    folder = cars / URBANCARS_PLACES["test"] / "obj-urban_bg-urban_co_occur_obj-urban"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 8 .* missing: .*obj-urban_bg-urban_co_occur_obj-urban"
    ):
        load_urbancars(cars)


def test_urbancars_folders_without_images_are_refused(cars):
    for car in ("urban", "country"):
        folder = cars / URBANCARS_PLACES["test"] / f"obj-{car}_bg-urban_co_occur_obj-urban"
        for path in folder.glob("*.jpg"):
            path.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"2 of 8 folders of .*test hold no images: obj-urban_bg-urban_.*, obj-country_bg-urban_",
    ):
        load_urbancars(cars)


def test_truncated_urbancars_images_are_named(cars):
    truncate(cars / URBANCARS_PLACES["train"] / "obj-urban_bg-urban_co_occur_obj-urban" / "000.jpg")
    with pytest.raises(ValueError, match=r"1 of 108 images .* truncated or unreadable"):
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
    with pytest.raises(ValueError, match=r"2 of 8 lines .* unknown part: 'holdout' \(lines 4, 8\)"):
        load_image_folder(pets, split_column="part", **COLUMNS)


@pytest.mark.parametrize(
    "content", ["path,target\nk\xe4fer.png,K\xe4fer\n".encode("latin-1"), b"\x89PNG\r\n\x1a\n\0"]
)
def test_a_table_that_is_no_text_is_named(pets, content):
    pets.write_bytes(content)
    with pytest.raises(ValueError, match=r"pets\.csv is no text file in UTF-8"):
        load_image_folder(pets)


STRAY_QUOTES = {
    "opened in the column wanted": ('images/3.png,"cat,10,test', "unexpected end of data"),
    "opened in a column that nobody reads": ('images/3.png,cat,10,"blurry', "unexpected end of data"),
    "followed by more than a comma": ('images/3.png,"cat" x,10,test', "',' expected after"),
}


@pytest.mark.parametrize("line, why", STRAY_QUOTES.values(), ids=STRAY_QUOTES)
def test_a_stray_quote_is_refused_with_its_line(pets, line, why):
    lines = pets.read_text().split("\n")
    lines[4] = line
    pets.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"1 of 9 lines of .*pets\.csv .* CSV file: line 5 \({why}"):
        load_image_folder(pets, **COLUMNS)


def test_a_quote_that_a_later_line_closes_swallows_no_images(pets):
    lines = pets.read_text().split("\n")
    lines[3], lines[5] = 'images/2.png,cat,10,"blurry', 'images/4.png,dog,10,so-so"'
    pets.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"1 of 9 lines .*: line 4 \(unexpected end of data\)\. Close every quote"
    ):
        load_image_folder(pets, **COLUMNS)


def test_a_quote_left_open_in_the_last_line_is_refused(pets):
    lines = pets.read_text().rstrip("\n").split("\n")
    lines[8] = 'images/7.png,dog,9,"test'
    pets.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"1 of 9 lines .*: line 9 \(unexpected end of data\)"):
        load_image_folder(pets, **COLUMNS)


def test_quotes_that_belong_to_a_value_are_kept(pets):
    edit(pets, "cat", '"small, ""grey"" cat"')
    edit(pets, "dog", '5" dog')
    names = load_image_folder(pets, **COLUMNS)["all"].target_names
    assert names == ['5" dog', 'small, "grey" cat']


def test_blanks_behind_a_closing_quote_do_not_matter(pets):
    edit(pets, "file,animal,lens", '"file" , "animal" ,lens')
    edit(pets, "images/3.png,cat", '"images/3.png" ,"cat" ')
    assert load_image_folder(pets, **COLUMNS)["all"].target_names == ["cat", "dog"]


def test_a_value_in_quotes_may_have_line_breaks(pets):
    edit(pets, ",9,train", ',"nine,\n\nor ""9""",train', count=1)
    edit(pets, ",9,test", ',9,"the last\none"')
    split = load_image_folder(pets, **COLUMNS)["all"]
    assert len(split.data) == 8
    # The lines are still counted as in the file.
    edit(pets, "images/7.png,dog", "images/7.png,")
    with pytest.raises(ValueError, match=r"1 of 8 lines .* have no animal: lines 12"):
        load_image_folder(pets, **COLUMNS)


def test_a_value_too_long_for_a_table_is_refused_with_its_line(pets):
    edit(pets, ",9,", f",{'9' * 140_000},", count=1)
    with pytest.raises(ValueError, match=r"line 3 \(field larger than field limit"):
        load_image_folder(pets, **COLUMNS)


def test_blank_labels_are_counted(pets):
    edit(pets, "dog", "")
    with pytest.raises(ValueError, match=r"4 of 8 lines .* have no animal: lines 6, 7, 8, 9"):
        load_image_folder(pets, **COLUMNS)


def test_one_class_only_is_refused(pets):
    edit(pets, "dog", "cat")
    with pytest.raises(ValueError, match=r"one class only \('cat'\) in the column 'animal'"):
        load_image_folder(pets, **COLUMNS)


def test_a_split_of_one_class_is_refused_by_name(pets):
    edit(pets, "2.png,cat", "2.png,dog")
    with pytest.raises(ValueError, match=r"1 of 3 splits .* one class only: validation \('dog'\)"):
        load_image_folder(pets, split_column="part", **COLUMNS)
    edit(pets, ",val", ",test")
    assert list(load_image_folder(pets, split_column="part", **COLUMNS)) == ["train", "test"]


def test_a_table_that_is_not_there_or_a_folder_is_refused_by_name(pets):
    with pytest.raises(FileNotFoundError, match=r"cats\.csv; .* holds images, pets\.csv\. Give as `table`"):
        load_image_folder(pets.with_name("cats.csv"))
    with pytest.raises(FileNotFoundError, match=r"images is a folder\. Give the file that lists the images"):
        load_image_folder(pets.parent / "images")


def test_a_column_that_is_there_twice_is_refused(pets):
    edit(pets, "lens", "animal", count=1)
    with pytest.raises(ValueError, match="has more than one column animal"):
        load_image_folder(pets, **COLUMNS)


def test_a_table_without_lines_is_refused(pets):
    pets.write_text("file,animal\n")
    with pytest.raises(ValueError, match="has column names but no lines"):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_table_is_called_empty(pets, content):
    pets.write_text(content)
    with pytest.raises(ValueError, match=r"pets\.csv has no column file, animal\. It is empty\."):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("again", ["images/0.png", "./images/0.png"])
def test_an_own_image_named_twice_is_refused(pets, again):
    edit(pets, "images/7.png", again)
    with pytest.raises(ValueError, match="1 images are named more than once"):
        load_image_folder(pets, **COLUMNS)


@pytest.mark.parametrize("root", [None, "."])
def test_an_image_named_by_its_absolute_path_too_is_refused(pets, root, monkeypatch):
    monkeypatch.chdir(pets.parent)
    edit(pets, "images/7.png", f"{pets.parent}/images/0.png")
    with pytest.raises(
        ValueError, match=r"1 images are named more than once in .*: images/0\.png = /.*0\.png\. An"
    ):
        load_image_folder(pets, root=root, **COLUMNS)


def test_truncated_png_images_are_named(pets):
    truncate(pets.parent / "images" / "3.png")
    with pytest.raises(ValueError, match=r"1 of 8 images .*3\.png"):
        load_image_folder(pets, **COLUMNS)


def test_the_frame_of_images_without_attributes_has_path_and_target(pets):
    pytest.importorskip("pandas")
    frame = load_image_folder(pets, as_frame=True, **COLUMNS)["all"].frame
    assert list(frame.columns) == ["path", "target"]


# The transform


def test_the_transform_is_torchvisions_resize_crop_and_normalise(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = np.random.RandomState(0).randint(256, size=(300, 280, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    published = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.CenterCrop((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with Image.open(tmp_path / "noise.png") as image:
        expected = published(image.convert("RGB")).numpy()
        np.testing.assert_allclose(ImageNetTransform()(image), expected, atol=1e-6)
    np.testing.assert_allclose(ImageNetTransform()(tmp_path / "noise.png"), expected, atol=1e-6)


def test_grey_and_transparent_images_become_three_channels(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (30, 30)).save(tmp_path / f"{mode}.png")
        assert ImageNetTransform(32, 28)(tmp_path / f"{mode}.png").shape == (3, 28, 28)


def test_equal_transforms_pickle_to_equal_bytes():
    first, again = ImageNetTransform(64, 56), ImageNetTransform(64, 56)
    assert first == again
    assert hash(first) == hash(again)
    assert pickle.dumps(first) == pickle.dumps(again)
    assert first != ImageNetTransform(64, 56, foreground_only=True)
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize("crop", [0, 257])
def test_a_crop_must_fit_into_the_resized_image(crop):
    with pytest.raises(ValueError, match=f"square of {crop} pixels cannot be cut out of 256 x 256"):
        ImageNetTransform(crop=crop)


def test_a_masked_image_needs_its_path():
    with pytest.raises(ValueError, match="pass the path instead of the image"):
        ImageNetTransform(foreground_only=True)(Image.new("RGB", (8, 8)))


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


def test_a_column_that_is_named_for_two_purposes_is_refused(pets):
    with pytest.raises(ValueError, match=r"column 'animal' is named 2 times among .* a column of its own"):
        load_image_folder(pets, attribute_column="animal", **COLUMNS)


def test_a_number_written_in_two_ways_is_no_two_attributes(pets):
    edit(pets, ",9,", ",10.0,", count=1)
    with pytest.raises(ValueError, match=r"the column 'lens' in two ways, '10' and '10\.0'"):
        load_image_folder(pets, attribute_column="lens", **COLUMNS)


def test_long_ids_that_a_float_takes_for_one_are_two_attributes(pets):
    edit(pets, ",9,", ",9007199254740992,")
    edit(pets, ",10,", ",9007199254740993,")
    data = load_image_folder(pets, attribute_column="lens", **COLUMNS)["all"]
    assert data.attribute_names == ["9007199254740992", "9007199254740993"]
    np.testing.assert_array_equal(data.attributes, [1, 0] * 4)


@pytest.mark.parametrize("ids", [("1_0", "10"), ("007", "7"), ("1e1", "10")])
def test_ids_that_python_reads_as_one_number_are_two_attributes(pets, ids):
    edit(pets, ",9,", f",{ids[0]},")
    edit(pets, ",10,", f",{ids[1]},")
    data = load_image_folder(pets, attribute_column="lens", **COLUMNS)["all"]
    assert data.attribute_names == sorted(ids)


@pytest.mark.parametrize("missing", ["nan", "NaN", "NAN"])
@pytest.mark.parametrize("column", ["animal", "lens"])
def test_nan_is_a_value_missing_and_no_class_or_attribute(pets, missing, column):
    edit(pets, {"animal": ",dog,", "lens": ",9,"}[column], f",{missing},")
    first = {"animal": 6, "lens": 3}[column]
    with pytest.raises(ValueError, match=rf"4 of 8 lines of .* have no {column} \('nan'\): lines {first}, "):
        load_image_folder(pets, attribute_column="lens", **COLUMNS)


def test_a_column_with_an_infinity_is_in_the_order_of_text(pets):
    edit(pets, ",9,", ",inf,", count=1)
    data = load_image_folder(pets, attribute_column="lens", **COLUMNS)["all"]
    assert data.attribute_names == ["10", "9", "inf"]
