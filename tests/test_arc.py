"""Tokens of ARC grids against small literal ones and brute force; augmentations by name, and back."""
import json

import numpy as np
import pytest

from dataset.arc import (
    COLOURS,
    EOS,
    PAD,
    SIDE,
    augment,
    augmentation_name,
    crop_sizes,
    decode_grid,
    encode_grid,
    encode_recoloured,
    invert_augmentation,
    parse_augmentation,
)


def random_grid(rng: np.random.Generator, low: int = 1, high: int = SIDE) -> np.ndarray:
    return rng.integers(0, COLOURS, rng.integers(low, high + 1, 2), dtype=np.uint8)


def test_end_marks_stand_right_below_and_right_of_the_grid():
    square = encode_grid(np.array([[0, 9, 3], [1, 2, 4]])).reshape(SIDE, SIDE)
    assert square[:4, :5].tolist() == [[2, 11, 5, 1, 0], [3, 4, 6, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert square.sum() == 2 + 11 + 5 + 3 + 4 + 6 + 5 * EOS and square.dtype == np.uint8
    moved = encode_grid(np.array([[0, 9, 3], [1, 2, 4]]), top=28, left=26).reshape(SIDE, SIDE)
    assert moved[27:, 25:].tolist() == [[0, 0, 0, 0, 0], [0, 2, 11, 5, 1], [0, 3, 4, 6, 1]]  # no room below
    full = encode_grid(np.full((SIDE, SIDE), 7, np.uint8))
    assert (full == 9).all()


def test_every_grid_is_read_back():
    rng = np.random.default_rng(0)
    for _ in range(200):
        grid = random_grid(rng)
        np.testing.assert_array_equal(decode_grid(encode_grid(grid)), grid)


def test_recoloured_grids_stand_where_they_should():
    rng = np.random.default_rng(1)
    grid = random_grid(rng, 5, 20)
    permutations = rng.permuted(np.tile(np.arange(COLOURS), (50, 1)), axis=1)
    tops, lefts = (rng.integers(0, SIDE - side + 1, 50) for side in grid.shape)
    tops[0], lefts[0] = SIDE - np.array(grid.shape)
    encoded = encode_recoloured(grid, permutations, tops, lefts)
    for tokens, permutation, top, left in zip(encoded, permutations, tops, lefts):
        np.testing.assert_array_equal(tokens.ravel(), encode_grid(permutation[grid], top, left))


def largest_rectangle(square: np.ndarray) -> tuple[int, int]:
    """Rows and columns, by trying them all."""
    best = (0, 0)
    for rows in range(1, SIDE + 1):
        for columns in range(1, SIDE + 1):
            corner = square[:rows, :columns]
            if (corner >= 2).all() and (corner <= 11).all() and rows * columns > best[0] * best[1]:
                best = rows, columns
    return best


def test_predictions_are_cropped_to_the_largest_rectangle():
    rng = np.random.default_rng(2)
    predictions = np.array([encode_grid(random_grid(rng)) for _ in range(60)]).astype(np.int32)
    noise = rng.random(predictions.shape) < rng.choice([0.003, 0.02, 0.2], (60, 1))
    predictions[noise] = rng.integers(0, 14, noise.sum())  # 12 and 13 are no tokens
    expected = [largest_rectangle(prediction.reshape(SIDE, SIDE)) for prediction in predictions]
    assert list(zip(*(sizes.tolist() for sizes in crop_sizes(predictions)))) == expected
    assert [decode_grid(prediction).shape for prediction in predictions] == expected


@pytest.mark.parametrize("rows, shape", [
    ([[2, 3, 1], [4, 1, 0]], (1, 2)),  # of equally large ones, the one with fewer rows
    ([[2, 3, 1], [4, 5, 1], [6, 0, 0]], (2, 2)),
    ([[2, 1], [2, 1], [2, 1], [1, 0]], (3, 1)),
    ([[PAD, 2], [3, 4]], (0, 0)),
    ([[EOS]], (0, 0)),
])
def test_crops_of_ragged_predictions(rows, shape):
    square = np.zeros((SIDE, SIDE), np.uint8)
    for row, tokens in enumerate(rows):
        square[row, :len(tokens)] = tokens
    assert decode_grid(square.ravel()).shape == shape


@pytest.mark.parametrize("transform", range(8))
def test_every_augmentation_inverts_from_its_name(transform):
    rng = np.random.default_rng(transform)
    for _ in range(25):
        grid, permutation = random_grid(rng), rng.permutation(COLOURS)
        task, *parsed = parse_augmentation(augmentation_name("00d62c1b", transform, permutation))
        assert (task, parsed[0], parsed[1].tolist()) == ("00d62c1b", transform, permutation.tolist())
        moved = augment(grid, transform, permutation)
        assert moved.dtype == parsed[1].dtype == np.uint8
        np.testing.assert_array_equal(invert_augmentation(moved, *parsed), grid)


def test_colours_are_permuted_then_moved():
    permutation = np.array([0, 2, 3, 1, 4, 5, 6, 7, 8, 9])
    assert augmentation_name("a", 6, permutation) == "a|||t6|||0231456789"
    assert augment(np.array([[0, 1, 2], [3, 4, 5]]), 6, permutation).tolist() == [[0, 1], [2, 4], [3, 5]]


def test_a_bare_name_is_the_original():
    task, transform, permutation = parse_augmentation("AboveBelow1")
    assert (task, transform, permutation.tolist()) == ("AboveBelow1", 0, list(range(COLOURS)))


@pytest.mark.parametrize("name", ["a|||t8|||0123456789", "a|||t1", "a|||t1|||012345678", "a|||t1|||0123456788",
                                  "a|||1|||0123456789", "a|||t1|||0123456789|||b", "a|||t1|||01234५6789"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="names no puzzle"):
        parse_augmentation(name)


def test_published_augmentations_invert_to_their_originals(shared):
    """The test split, since it is not translated: every puzzle, inverted by its name, is the original of its group."""
    folder = shared / "interop" / "arc-small"
    names = json.loads((folder / "identifiers.json").read_text())
    arrays = {field: np.load(folder / "test" / f"all__{field}.npy")
              for field in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices")}
    originals, augmented = {}, 0
    for identifier, start, end in zip(arrays["puzzle_identifiers"], *(arrays["puzzle_indices"][i:] for i in (0, 1))):
        task, transform, permutation = parse_augmentation(names[identifier])
        assert names[identifier] in (task, augmentation_name(task, transform, permutation))
        grids = [decode_grid(tokens) for field in ("inputs", "labels") for tokens in arrays[field][start:end]]
        restored = [invert_augmentation(grid, transform, permutation).tolist() for grid in grids]
        assert restored == originals.setdefault(task, restored)
        augmented += names[identifier] != task
    assert (len(originals), augmented) == (8, 64)
