"""How fast a run goes, and how long it will take."""
import time
from collections import deque

from tqdm import tqdm

FIRST_STEPS = 10  # from whose pace the time of the whole run is told
RECENT_STEPS = 100  # from whose pace, later, what is left
QUIET = 30.0  # seconds between the lines of an evaluation where no terminal shows its bar


def duration(seconds: float) -> str:
    """A time in words, in two units at most."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Pace:
    """Seconds of the steps of this process; `last_step` is where it will end."""

    def __init__(self, first_step: int, last_step: int):
        self.first_step, self.last_step, self.step = first_step, last_step, first_step
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._first: list[float] = []

    def add(self, seconds: float) -> None:
        """Count a step that took so many seconds."""
        self.step += 1
        if len(self._first) < FIRST_STEPS:
            self._first.append(seconds)
        if self.step != self.first_step + 1:  # which also compiles, and allocates
            self._recent.append(seconds)

    @property
    def seconds_a_step(self) -> float:
        """Mean seconds of the recent steps. The very first, which is slow, counts only while it is alone."""
        recent = self._recent or self._first
        return sum(recent) / max(len(recent), 1)

    @property
    def left(self) -> float:
        """Seconds left at the recent pace."""
        return (self.last_step - self.step) * self.seconds_a_step

    def of_first_steps(self) -> str | None:
        """A line about the pace, once, after the first steps of a run that has more; None at any other step."""
        done, left = self.step - self.first_step, self.last_step - self.step
        if left <= 0 or (done != FIRST_STEPS and not (done == 1 and left < FIRST_STEPS)):
            return None
        others = f", the {done - 1} after it {self.seconds_a_step:.3g} s each" if done > 1 else ""
        return (f"the first step took {self._first[0]:.3g} s{others}; at that pace the {left:,} "
                f"left take {duration(self.left)}, evaluations not counted")


class EvaluationProgress:
    """Tells how many of this process's examples are answered: by a bar, or on a line now and then where there is no
    terminal. Of several processes the first tells of its share."""

    def __init__(self, examples: int, shown: bool = True, processes: int = 1):
        self.examples, self.shown, self.answered = examples, shown, 0
        self.share = f" by the first of {processes} processes" if processes > 1 else ""
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=examples, unit="example", desc="evaluating", dynamic_ncols=True, leave=False,
                        disable=None if shown else True)  # None: where standard error is no terminal

    def add(self, answered: int) -> None:
        """Count so many examples more."""
        self.answered += answered
        self.bar.update(answered)
        if self.answered == self.examples:
            self.bar.close()
        elif self.shown and self.bar.disable and answered and time.monotonic() - self.told > QUIET:
            self.told = time.monotonic()
            left = (self.told - self.began) * (self.examples / self.answered - 1)
            print(f"{time.strftime('%H:%M:%S')} {self.answered:,} of {self.examples:,} examples answered{self.share}, "
                  f"{duration(left)} left at that pace", flush=True)
