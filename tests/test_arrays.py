"""Arrays in files: read in place where they can be, and refused with a message where they cannot."""
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset import arrays
from dataset.arrays import open_npy, open_npz

VALUES = np.arange(12, dtype=np.float64).reshape(4, 3)


@pytest.mark.parametrize("save, key, in_place", [
    (lambda file: np.savez(file, latents=VALUES), "latents", True),
    (lambda file: np.savez(file, other=VALUES * 2, latents=VALUES), "latents", True),
    (lambda file: np.savez(file, VALUES), "latents", True),
    (lambda file: np.savez_compressed(file, latents=VALUES), "latents", False),
    (lambda file: np.savez(file, latents=np.asfortranarray(VALUES)), "latents", False),
])
@pytest.mark.parametrize("mapped", [True, False])
def test_an_array_is_read_from_an_archive_and_where_it_stands_uncompressed_mapped_in_place(tmp_path, save, key,
                                                                                           in_place, mapped):
    save(tmp_path / "data.npz")
    array = open_npz(tmp_path / "data.npz", key)
    assert array.shape == (4, 3) and array.dtype == np.float64 and (array.offset is not None) == in_place
    loaded = array.load(mapped)
    assert np.array_equal(loaded, VALUES) and isinstance(loaded, np.memmap) == (in_place and mapped)


@pytest.mark.parametrize("save, message", [
    (lambda file: np.savez(file, a=VALUES, b=VALUES), "data.npz holds a, b, and none is called inputs; .* inputs=…"),
    (lambda file: np.savez(file, VALUES, VALUES), "data.npz holds arr_0, arr_1, and none is called inputs"),
    (lambda file: np.savez(file, inputs=np.array([{}])), "inputs.npy holds pickled objects, which are not read"),
    (lambda file: file.write_bytes(b"no archive"), "data.npz is truncated or not a NumPy array"),
    (lambda file: (np.savez(file, inputs=VALUES), file.write_bytes(file.read_bytes()[:-40])), "data.npz is truncated"),
])
def test_archives_that_cannot_be_read_are_refused_by_name(tmp_path, save, message):
    save(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=message):
        open_npz(tmp_path / "data.npz", "inputs")


@pytest.mark.parametrize("mapped", [True, False])
def test_pickles_and_archives_of_another_suffix_are_no_npy(tmp_path, mapped):
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="objects.npy holds pickled objects, which are not read; save plain numbers"):
        open_npy(tmp_path / "objects.npy", mapped)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ValueError, match="text.npy is truncated or not a NumPy array"):
        open_npy(tmp_path / "text.npy", mapped)
    np.savez(tmp_path / "data.npz", VALUES)
    (tmp_path / "data.npz").rename(tmp_path / "data.npy")
    with pytest.raises(ValueError, match="data.npy is an .npz archive; give it that suffix"):
        open_npy(tmp_path / "data.npy", mapped)


def archive_of(file: Path, shape: tuple[int, ...], zeros: int) -> Path:
    """A compressed .npz whose header says `shape` (of bytes), and which holds so many zeros."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("latents.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
        member.write(bytes(zeros))
    return file


def test_a_header_that_says_more_than_there_is_is_refused(tmp_path):
    for shape in ((10**15,), (2**40, 2**40), (101,), (99,)):
        with pytest.raises(ValueError, match="bad.npz is truncated or not a NumPy array"):
            open_npz(archive_of(tmp_path / "bad.npz", shape, zeros=100), "latents")
    assert open_npz(archive_of(tmp_path / "good.npz", (100,), zeros=100), "latents").load().sum() == 0
    with open(tmp_path / "bad.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    for mapped in (True, False):
        with pytest.raises(ValueError, match="bad.npy is truncated or not a NumPy array"):
            open_npy(tmp_path / "bad.npy", mapped)


def test_a_small_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    file = archive_of(tmp_path / "bomb.npz", (2**20,), zeros=2**20)
    assert file.stat().st_size < 2**12 and len(open_npz(file, "latents").load()) == 2**20
    monkeypatch.setattr(arrays, "MEMORY_BYTES", 2**20 - 1)
    with pytest.raises(ValueError, match="bomb.npz: latents.npy unpacks to 0.00105 GB, and this machine .* np.savez"):
        open_npz(file, "latents")
