"""Latent episodes: examples against the stored latents, what an epoch draws, metadata, and what is refused."""

import numpy as np
import pytest

from dataset import latent_episodes
from dataset.arrays import open_npz
from dataset.latent_episodes import EpisodeFiles, episode_records
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.regression_dataset import feature_statistics
from helpers import write_episode, write_tiny_episodes


def opened(*paths, split: str = "train", **more) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(**{
        "seed": 3, "dataset_paths": list(map(str, paths)), "global_batch_size": 4,
        "test_set_mode": split == "test"} | more), split)


def numbered(path, lengths: list[int], split: str = "train", **options):
    """Episodes whose latent at t is (episode, t)."""
    for i, length in enumerate(lengths):
        latents = np.stack([np.full(length, i), np.arange(length)], axis=1).astype(np.float32)
        write_episode(path, split, i, latents, **options)
    return path


def test_an_example_is_a_transition_and_an_episode_has_one_less_than_latents(tmp_path):
    data = opened(numbered(tmp_path, [4, 2, 7]))
    assert data.num_examples == 3 + 1 + 6 and data.metadata.input_dim == data.metadata.target_dim == 2
    batch = data.examples(range(10))
    expected = [(e, t) for e, length in enumerate([4, 2, 7]) for t in range(length - 1)]
    assert batch["inputs"].tolist() == [[e, t] for e, t in expected]
    assert batch["targets"].tolist() == [[e, t + 1] for e, t in expected]
    assert batch["target_mask"].all() and batch["target_mask"].shape == (10, 2)
    assert batch["puzzle_identifiers"].tolist() == [e for e, _ in expected]
    assert data.metadata.batch_fields()["inputs"].shape == (2,)


@pytest.mark.parametrize("window, stride, starts", [
    (4, None, {3: [0], 5: [0], 9: [0, 4], 11: [0, 4, 8]}), (4, 1, {5: [0], 9: [0, 1, 2, 3, 4]}),
    (3, 2, {3: [0], 8: [0, 2, 4], 9: [0, 2, 4, 6]})])
@pytest.mark.parametrize("compressed", [False, True])
def test_windows_start_every_stride_until_one_reaches_the_end_short_ones_padded_and_masked(tmp_path, window, stride,
                                                                                           starts, compressed):
    data = opened(numbered(tmp_path, list(starts), compressed=compressed), episode_window=window, episode_stride=stride)
    batch = data.examples(range(data.num_examples))
    expected = [(e, first, length) for e, (length, firsts) in enumerate(starts.items()) for first in firsts]
    assert data.num_examples == len(expected)
    for row, (episode, first, length) in enumerate(expected):
        count = min(window, length - 1 - first)
        assert batch["inputs"][row, :count].tolist() == [[episode, first + i] for i in range(count)]
        assert batch["targets"][row, :count].tolist() == [[episode, first + i + 1] for i in range(count)]
        for field in ("inputs", "targets", "target_mask"):
            assert not batch[field][row, count:].any()
        assert batch["target_mask"][row, :count].all()
    assert set(map(tuple, batch["targets"][batch["target_mask"]].reshape(-1, 2).tolist())) == {
        (e, t) for e, length in enumerate(starts) for t in range(1, length)}


def test_an_epoch_draws_every_transition_once_whatever_the_lengths_and_groups(tmp_path):
    path = numbered(tmp_path, [3, 40, 2, 9], group="all of them")
    data = opened(path, global_batch_size=1)
    assert data.stream.examples_per_epoch == 2 + 39 + 1 + 8
    epochs = [[tuple(data.next_batch()["inputs"][0].tolist()) for _ in range(50)] for _ in range(2)]
    every = sorted((e, t) for e, length in enumerate([3, 40, 2, 9]) for t in range(length - 1))
    assert [sorted(epoch) for epoch in epochs] == [every, every] and epochs[0] != epochs[1] != every
    assert data.stream.epoch == 2 and data.steps_in(3) == 150
    resumed = opened(path, global_batch_size=1)
    resumed.stream.load_state_dict({"epoch": 0, "offset": 7})
    assert [tuple(resumed.next_batch()["inputs"][0].tolist()) for _ in range(43)] == epochs[0][7:]


def test_metadata_names_sets_groups_and_identifiers_and_missing_identifiers_are_numbered_on(tmp_path):
    for i, record in enumerate([{"set": "walk", "group": "a"}, {"puzzle_identifier": 7}, {"set": "walk", "group": "b"},
                                {"set": "walk", "group": "a", "puzzle_identifier": 2}]):
        write_episode(tmp_path, "train", i, np.full((3, 1), i, np.float32), **record)
    metadata = tmp_path / "train" / "metadata"
    (metadata / "episode_002.json").unlink()
    (metadata / "episode_002.jsonl").write_text('{"set": "run"}\n\n{"set": "walk", "group": 5}\n')
    (metadata / "episode_001.json").write_text('{"set": null, "group": null, "puzzle_identifier": 7}')
    (metadata / "episode_000.jsonl").write_text('{"puzzle_identifier": null}')
    numbered(tmp_path, [3, 3], split="test")
    identifiers = {split: [r["puzzle_identifier"] for r in rs] for split, rs in episode_records(tmp_path).items()}
    assert identifiers == {"train": [8, 7, 9, 2], "test": [10, 11]}
    data = opened(tmp_path)
    assert list(data.sets) == ["walk", "latentset"] and data.metadata.total_groups == 3
    batch = data.examples(range(8))
    assert batch["inputs"][::2, 0].tolist() == [0, 3, 2, 1]  # groups stand together
    assert batch["puzzle_identifiers"][::2].tolist() == [8, 2, 9, 7]
    assert data.sets["walk"].group_indices.tolist() == [0, 2, 3] and data.metadata.num_puzzle_identifiers == 12
    assert opened(tmp_path, split="test").examples([0, 2])["puzzle_identifiers"].tolist() == [10, 11]


def test_the_tenth_episode_comes_after_the_ninth(tmp_path):
    for name in ("episode_9", "episode_10"):
        (tmp_path / "train" / "latents").mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / "train" / "latents" / f"{name}.npz", latents=np.full((2, 1), float(name[8:]), np.float32))
    assert opened(tmp_path).examples([0, 1])["inputs"][:, 0].tolist() == [9, 10]


def test_of_several_folders_every_identifier_is_shifted_and_sets_of_one_name_get_the_folder_s_number(tmp_path):
    a, b = (numbered(tmp_path / name, [3, 3]) for name in "ab")
    numbered(a, [3], split="test")
    data = opened(a, b)
    assert list(data.sets) == ["latentset", "latentset1"] and data.metadata.num_puzzle_identifiers == 5
    assert {path: numbering.offset for path, numbering in data.rows.numberings.items()} == {str(a): 0, str(b): 3}
    assert data.examples([0, 2, 4, 6])["puzzle_identifiers"].tolist() == [0, 1, 3, 4]


def test_views_are_read_where_they_are_indexed(tmp_path):
    episodes = opened(numbered(tmp_path, [4, 6]), episode_window=3).sets["latentset"]
    assert episodes.inputs.shape == (3, 3, 2) and len(episodes.targets) == 3 and episodes.target_mask.dtype == bool
    assert episodes.inputs[1].tolist() == [[1, 0], [1, 1], [1, 2]]
    assert episodes.targets[-2:][1].tolist() == [[1, 4], [1, 5], [0, 0]]
    assert episodes.target_mask[[2, 0]][0].tolist() == [[True] * 2, [True] * 2, [False] * 2]


def test_compressed_episodes_stay_in_a_cache_of_bounded_size(tmp_path):
    path = numbered(tmp_path, [10] * 6, compressed=True)
    arrays = [open_npz(file, "latents") for file in sorted((path / "train" / "latents").iterdir())]
    files, frames = EpisodeFiles(arrays, cache_bytes=3 * 80), np.empty((2, 2), np.float32)
    for episode in (0, 1, 2, 0, 3, 5, 0, 1):
        files.read(episode, 4, frames)
        assert frames.tolist() == [[episode, 4], [episode, 5]] and files.cached_bytes <= 240
    assert list(files.cache) == [5, 0, 1] and files.cached_bytes == 240
    uncompressed = opened(numbered(tmp_path / "plain", [10] * 6)).sets["latentset"].files
    uncompressed.read(3, 4, frames)
    assert not uncompressed.cache and frames.tolist() == [[3, 4], [3, 5]]


def test_compressed_episodes_larger_than_their_cache_are_told_of_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latent_episodes, "CACHE_BYTES", 6 * 80)
    for name, lengths, compressed in (("fits", [10] * 6, True), ("plain", [10] * 7, False), ("large", [10] * 7, True)):
        numbered(tmp_path / name, lengths, compressed=compressed)
        for _ in range(2):
            opened(tmp_path / name)
    told = capsys.readouterr().out
    assert told.startswith(f"notice: {tmp_path / 'large' / 'train'}: compressed episodes of ") and told.count("\n") == 1
    assert told.endswith("save them with np.savez, not np.savez_compressed\n")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f8"])
def test_latents_of_other_dtypes_are_cast(tmp_path, dtype, capsys):
    latents = np.arange(20).reshape(10, 2).astype(dtype)
    write_episode(tmp_path, "train", 0, latents)
    inputs = opened(tmp_path, episode_window=3).examples([1])["inputs"][0]
    assert np.array_equal(inputs, latents[3:6].astype(np.float32))
    assert bool(capsys.readouterr().out) == (dtype is not np.float16)


def test_arrays_beside_the_latents_are_named_in_one_notice(tmp_path, capsys):
    """Episodes as a recorder of a world model leaves them, under names of its own."""
    for split in ("train", "test"):
        for number in range(2):
            file = write_episode(tmp_path, split, number, np.ones((5, 2), np.float32))
            beside = {"action": np.ones((5, 2))} | ({"is_first": np.zeros(5, bool)} if number else {})
            np.savez(file.with_name(f"2024010{number}T000000-abc-5.npz"), latents=np.ones((5, 2), np.float32), **beside)
            file.unlink()
        assert opened(tmp_path, split=split).num_examples == 8
    assert capsys.readouterr().out == (f"notice: {tmp_path}: episodes hold action, is_first beside `latents`, which "
                                       "are not used; what should count must stand in `latents`\n")


@pytest.mark.parametrize("folder, named", [("with_actions", "actions"), ("dreamer_names", "action, reward, is_first")])
def test_what_a_recorder_left_is_read(shared, folder, named, capsys):
    path = shared / "cases" / "npz" / folder
    assert (opened(path).num_examples, opened(path, split="test").num_examples) == (4 * 29, 2 * 29)
    assert capsys.readouterr().out.count(f"episodes hold {named} beside `latents`") == 1


def test_statistics_leave_padding_out(tmp_path):
    data = opened(write_tiny_episodes(tmp_path, train=[9, 6]), episode_window=8)
    statistics = feature_statistics(list(data.sets.values()))
    latents = [np.load(file)["latents"] for file in sorted((tmp_path / "train" / "latents").iterdir())]
    inputs, targets = (np.concatenate([frames[part] for frames in latents]) for part in (slice(-1), slice(1, None)))
    assert np.allclose(statistics["input_mean"], inputs.mean(0))
    assert np.allclose(statistics["target_mean"], targets.mean(0))
    assert np.allclose(statistics["input_std"][:2], inputs.std(0)[:2]) and statistics["input_std"][2] == 1


def rewritten(latents):
    return lambda path: write_episode(path, "train", 1, latents)


def with_record(text: str, name: str = "episode_001.json", encoding: str = "utf-8"):
    def spoil(path):
        (path / "train" / "metadata").mkdir(exist_ok=True)
        (path / "train" / "metadata" / name).write_text(text, encoding)
    return spoil


def one_nan(path):
    latents = np.zeros((5, 2), np.float32)
    latents[3, 1] = np.nan
    write_episode(path, "train", 1, latents)


def two_arrays(path):
    np.savez(path / "train" / "latents" / "episode_001.npz", a=np.zeros((5, 2)), b=np.zeros((5, 2)))


@pytest.mark.parametrize("spoil, message", [
    (one_nan, "episode_001.npz: row 3 holds NaN or infinity; mend the episode"),
    (rewritten(np.zeros((5, 3), np.float32)), "latents have width 2 in .*episode_000.npz and 3 in .*episode_001"),
    (rewritten(np.zeros((1, 2), np.float32)), "episode_001.npz: the episode has 1 latents, and a transition needs 2"),
    (rewritten(np.zeros((0, 2), np.float32)), "episode_001.npz: the episode has 0 latents"),
    (rewritten(np.zeros(5, np.float32)), r"episode_001.npz: latents have shape \(5,\), and should have \(T, D\)"),
    (rewritten(np.full((5, 2), "a")), "episode_001.npz: latents are <U1, not numbers"),
    (rewritten(np.full((5, 2), None)), "episode_001.npz: latents.npy holds pickled objects"),
    (two_arrays, "episode_001.npz holds a, b, and none is called latents"),
    (with_record("{"), "metadata/episode_001.json does not parse as a JSON object: Expecting"),
    (with_record('{"set": "a"}\n[1]', "episode_001.jsonl"), "episode_001.jsonl does not parse as a JSON object a line"),
    (with_record('[["set", "a"]]'), r'episode_001.json does not parse as a JSON object: found \[\["set", "a"'),
    (with_record("[1]\n", "episode_001.jsonl"), r"does not parse as a JSON object a line: found \[1\]"),
    (with_record('{"set": "ä"}', encoding="latin-1"), "episode_001.json does not parse as a JSON object: 'utf-8'"),
    (with_record('{"puzzle_identifier": 2147483648}'), "episode_001 .* has puzzle_identifier=2147483648, which is no"),
    (with_record('{"puzzle_identifier": 2147483647}'), "go up to 2147483648, and 2147483647 is the largest possible"),
    (with_record('{"puzzle_identifier": "x"}'), "episode_001 in .*metadata has puzzle_identifier='x', which is no"),
    (lambda p: [with_record('{"puzzle_identifier": 4}', f"episode_00{i}.json")(p) for i in (0, 1)],
     "episode_000 and episode_001 in .*metadata have the same puzzle_identifier=4"),
    (lambda p: [file.unlink() for file in (p / "train" / "latents").iterdir()], "latents holds no .npz file"),
])
def test_what_is_wrong_with_an_episode_is_said_with_its_file(tmp_path, spoil, message):
    spoil(numbered(tmp_path, [5, 5]))
    with pytest.raises(ValueError, match=message):
        opened(tmp_path).examples(range(8))


def test_strides_that_leave_transitions_out_and_folders_without_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="episode_stride=4 is larger than episode_window=3, so transitions between"):
        opened(numbered(tmp_path, [9]), episode_window=3, episode_stride=4)
    with pytest.raises(ValueError, match="has no test split: there is neither .*dataset.json nor a folder of latents"):
        opened(tmp_path, split="test")


@pytest.mark.parametrize("compressed, message", [(False, "episode_000.npz: row 4993 holds NaN or infinity"),
                                                 (True, "episode_000.npz is truncated or not a NumPy array")])
def test_opening_episodes_reads_no_latents(tmp_path, compressed, message):
    """Bytes in the middle are spoilt, of which only who reads them knows."""
    latents = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    file = write_episode(tmp_path, "train", 0, latents, compressed)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 400] = b"\xff" * 400
    file.write_bytes(content)
    data = opened(tmp_path)
    assert data.num_examples == 9_999 and not data.sets["latentset"].files.cache
    with pytest.raises(ValueError, match=message):
        data.examples(range(9_999))


def test_an_episode_cut_short_under_way_is_named(tmp_path):
    data = opened(numbered(tmp_path, [9]))
    file = tmp_path / "train" / "latents" / "episode_000.npz"
    file.write_bytes(file.read_bytes()[:160])
    with pytest.raises(ValueError, match="episode_000.npz has been cut short since it was opened"):
        data.examples([7])
