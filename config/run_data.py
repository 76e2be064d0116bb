"""Opens the data of a training run, and checks them before a model is built for them."""
from config.schema import PretrainConfig
from dataset.common import OTHER_LABELS
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.puzzle_rows import PuzzleRows
from utils.distributed import World
from utils.sanity import check_batch


def load_data(config: PretrainConfig, world: World) -> tuple[PuzzleDataset, PuzzleDataset]:
    """The training data and the test data.

    Raises ValueError where one model cannot take both, where a first batch has impossible values, or where the whole
    training would be shorter than one step.
    """
    test_paths = config.data_paths_test or config.data_paths
    shared = {"seed": config.seed, "global_batch_size": config.global_batch_size, "rank": world.rank,
              "num_replicas": world.size, "episode_window": config.episode_window,
              "episode_stride": config.episode_stride}
    rows = PuzzleRows(config.data_paths, test_paths)
    train = PuzzleDataset(PuzzleDatasetConfig(dataset_paths=config.data_paths, test_set_mode=False,
                                              val_puzzles=config.val_puzzles, augment=config.augment,
                                              rating_curriculum=config.rating_curriculum, epochs=config.epochs,
                                              trust_code=config.trust_code, **shared), "train", rows)
    test = PuzzleDataset(PuzzleDatasetConfig(dataset_paths=test_paths, test_set_mode=True, **shared), "test", rows)
    if config.test_puzzles is not None:
        test = test.some_puzzles(config.test_puzzles)
    for key in ("task_type", *train.metadata.MODEL_KEYS.values()):
        if getattr(train.metadata, key) != getattr(test.metadata, key):
            raise ValueError(f"{key} is {getattr(train.metadata, key)} in "
                             f"data_paths={config.data_paths} and {getattr(test.metadata, key)} in "
                             f"data_paths_test={test_paths}; one model cannot do both")
    others = getattr(train.metadata, OTHER_LABELS, 0)
    if others and not config.arch.head_class.OTHER_SOLUTIONS:
        raise ValueError(f"{train.config.folders} holds {others} solutions of each puzzle besides its labels, and "
                         f"arch.loss.name={config.arch.loss.name} would drop them; use arch=ldt, or build the data "
                         "without --paths")
    if not config.skip_sanity_checks:
        for split, data in (("train", train), ("test", test)):
            check_batch(f"first {split} batch of {data.config.folders}", data.first_batch(),
                        data.metadata.batch_fields())
    if not train.steps_in(config.epochs):
        raise ValueError(f"the whole run is shorter than one batch: {config.epochs} "
                         f"epochs of {train.stream.examples_per_epoch:g} examples, and "
                         f"global_batch_size={config.global_batch_size}; use more "
                         "epochs or a smaller batch")
    return train, test
