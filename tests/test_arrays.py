"""Arrays in files: read in place where they can be, and refused with a message where they cannot."""
import numpy as np
import pytest

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
