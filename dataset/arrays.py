"""Arrays from `.npy` and `.npz` files, checked: what is wrong with one is a ValueError that names the file.

Pickled arrays are refused, since reading one runs the code in it.
"""
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and extra field
UNREADABLE = (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError, NotImplementedError)


@dataclass(frozen=True)
class NpzArray:
    """An array in an `.npz` file, not read yet."""

    file: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    # byte of the file where its numbers begin in C order; None: they are compressed or in another order
    offset: int | None

    def load(self, mapped: bool = False) -> np.ndarray:
        if mapped and self.offset is not None:
            return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)
        try:
            with np.load(self.file, allow_pickle=False) as archive:
                return archive[self.member.removesuffix(".npy")]
        except UNREADABLE as error:
            raise unreadable(self.file) from error


def unreadable(file: Path) -> ValueError:
    return ValueError(f"{file} is truncated or not a NumPy array; build the data set again")


def open_npy(file: Path, mapped: bool) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except UNREADABLE as error:  # what NumPy says of it advises to load pickles
        raise unreadable(file) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{file} is an .npz archive; give it that suffix")
    return array


def open_npz(file: Path, key: str) -> NpzArray:
    """The array called `key`, or the only one, if it has no name of its own (`np.savez(file, array)`)."""
    try:
        with zipfile.ZipFile(file) as archive:
            member = _member(archive, file, key)
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
                    np.lib.format.read_array_header_2_0
                shape, fortran_order, dtype = read_header(stream)
                header = stream.tell()
            archive.fp.seek(member.header_offset)
            local = archive.fp.read(LOCAL_HEADER)
    except UNREADABLE as error:
        if str(error).startswith(str(file)):
            raise
        raise unreadable(file) from error
    if dtype.hasobject:
        raise ValueError(f"{file}: {member.filename} holds pickled objects, which are not read; save plain numbers")
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    in_place = member.compress_type == zipfile.ZIP_STORED and not fortran_order
    return NpzArray(file, member.filename, shape, dtype,
                    member.header_offset + LOCAL_HEADER + names + header if in_place else None)


def _member(archive: zipfile.ZipFile, file: Path, key: str) -> zipfile.ZipInfo:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if key in members:
        return members[key]
    if list(members) == ["arr_0"]:
        return members["arr_0"]
    raise ValueError(f"{file} holds {', '.join(members) or 'no array'}, and none is called {key}; name the one that is "
                     f"meant: np.savez(…, {key}=…)")
