"""Arrays from `.npy` and `.npz` files, checked: what is wrong with one is a ValueError that names the file.

Pickled arrays are refused, since reading one runs the code in it.
"""
import math
import os
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and extra field
UNREADABLE = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError,
              NotImplementedError, MemoryError)
MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class NpzArray:
    """An array in an `.npz` file, not read yet."""

    file: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    # byte of the file where its numbers begin in C order; None: they are compressed or in another order
    offset: int | None
    # names of the other arrays in the file
    beside: tuple[str, ...] = ()

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


def holds_objects(what: Path | str) -> ValueError:
    return ValueError(f"{what} holds pickled objects, which are not read; save plain numbers")


def _is_of_objects(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            return _read_header(stream)[2].hasobject
    except UNREADABLE:
        return False


def _read_header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; the stream then stands at the numbers."""
    version = np.lib.format.read_magic(stream)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else
            np.lib.format.read_array_header_2_0)(stream)


def open_npy(file: Path, mapped: bool) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except UNREADABLE as error:  # what NumPy says of it advises to load pickles
        raise (holds_objects(file) if _is_of_objects(file) else unreadable(file)) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{file} is an .npz archive; give it that suffix")
    return array


def open_npz(file: Path, key: str) -> NpzArray:
    """The array called `key`, or the only one, if it has no name of its own (`np.savez(file, array)`)."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member
                       for member in archive.infolist()}
            name = _member_name(members, file, key)
            member = members.pop(name)
            with archive.open(member) as stream:
                shape, fortran_order, dtype = _read_header(stream)
                header = stream.tell()
            archive.fp.seek(member.header_offset)
            local = archive.fp.read(LOCAL_HEADER)
    except UNREADABLE as error:
        if str(error).startswith(str(file)):
            raise
        raise unreadable(file) from error
    if dtype.hasobject:
        raise holds_objects(f"{file}: {member.filename}")
    if member.file_size != header + math.prod(shape) * dtype.itemsize:
        raise unreadable(file)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    in_place = member.compress_type == zipfile.ZIP_STORED and not fortran_order
    if not in_place and member.file_size > MEMORY_BYTES:  # a few MB of zeros unpack to GB
        raise ValueError(f"{file}: {member.filename} unpacks to {member.file_size / 1e9:.3g} GB, "
                         f"and this machine has {MEMORY_BYTES / 1e9:.3g} GB of memory; save it "
                         "uncompressed, with np.savez")
    return NpzArray(file, member.filename, shape, dtype,
                    member.header_offset + LOCAL_HEADER + names + header if in_place else None,
                    tuple(members))


def _member_name(members: Collection[str], file: Path, key: str) -> str:
    if key in members:
        return key
    if list(members) == ["arr_0"]:
        return "arr_0"
    raise ValueError(f"{file} holds {', '.join(members) or 'no array'}, and none is called {key}; "
                     f"name the one that is meant: np.savez(…, {key}=…)")
