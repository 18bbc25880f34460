import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal


@pytest.fixture
def project(report, tmp_path):
    pytest.importorskip("h5py")
    return report.to_virelay(tmp_path / "project")


def test_the_files_have_the_documented_keys_and_shapes(project, marked):
    h5py = pytest.importorskip("h5py")
    folder = project.parent
    with h5py.File(folder / "images.h5") as file:
        assert file["data"].shape == (300, 3, 14, 14)
        assert_allclose(file["data"][7] / 255, marked.X[7].clip(0, 1), atol=1 / 255)
        assert_array_equal(file["label"], marked.y == "pullover")
    with h5py.File(folder / "attributions.h5") as file:
        assert file["attribution"].shape == (300, 3, 14, 14)
        assert_array_equal(file["index"], np.arange(300))
        assert_array_equal(np.sum(file["prediction"], axis=1), np.ones(300))
    with h5py.File(folder / "analysis.h5") as file:
        assert set(file) == {"all", "class 0", "class 1"}
        assert_array_equal(file["all/cluster/skexmap"], marked.classifier.cluster_labels_)
        assert_array_equal(file["class 1/index"], np.flatnonzero(marked.y == "pullover"))
        assert file["class 1/embedding/pca"].shape == (150, 2)


def test_virelays_own_loader_opens_the_project(project, marked):
    model = pytest.importorskip("virelay.model")
    opened = model.Project(str(project))
    assert opened.get_sample(200).labels[0].name == "pullover"
    assert opened.get_attribution(3).data.shape == (14, 14, 3)
    categories = {
        category.name: category.human_readable_name for category in opened.get_analysis_categories("skexmap")
    }
    assert categories == {"all": "", "class 0": "coat", "class 1": "pullover"}
    analysis = opened.get_analysis("skexmap", "class 0", "skexmap", "pca")
    assert_array_equal(analysis.clustering, marked.classifier.cluster_labels_[:150])
    opened.close()
