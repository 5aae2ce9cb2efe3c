"""How many CPU threads a decode pass should use, found by trying. Pure; the caller measures."""

from collections import deque
from statistics import median

FEW = 3
TRIAL_PASSES = 4
BETTER = 0.92
HOPELESS = 1.3
MIN_INTERVAL, MAX_INTERVAL = 16, 1024


class ThreadTuner:
    """Compares the current number of threads with half and double of it, now and then.

    The threads of a pass meet hundreds of times. On an idle machine more threads are faster; as
    soon as another process wants one of the cores, every meeting waits for it, and a pass takes
    up to 20 times as long. No setting is right for both, so the tuner watches comparable passes.
    """

    def __init__(self, most: int) -> None:
        self._choices = [1]
        while self._choices[-1] < most:
            self._choices.append(min(2 * self._choices[-1], most))
        self._current = len(self._choices) - 1
        self._recent: deque[float] = deque(maxlen=8)
        self._trial: int | None = None
        self._tried: list[float] = []
        self._downwards = True
        self._interval = MIN_INTERVAL
        self._left = FEW

    @property
    def threads(self) -> int:
        """The number to use for the next pass."""
        return self._choices[self._current if self._trial is None else self._trial]

    def observe(self, pass_s: float) -> None:
        """Tells how long a pass with `threads` took; passes must do about the same work."""
        if self._trial is not None:
            self._judge(pass_s)
            return
        slowed = len(self._recent) >= FEW and pass_s > 2 * median(self._recent)
        self._recent.append(pass_s)
        self._left = min(self._left - 1, FEW) if slowed else self._left - 1
        if self._left <= 0 and len(self._recent) >= FEW:
            self._begin()

    def _begin(self) -> None:
        steps = (-1, 1) if self._downwards else (1, -1)
        neighbours = [self._current + step for step in steps]
        possible = [choice for choice in neighbours if 0 <= choice < len(self._choices)]
        self._downwards = not self._downwards
        if possible:
            self._trial, self._tried = possible[0], []

    def _judge(self, pass_s: float) -> None:
        self._tried.append(pass_s)
        usual_s = median(self._recent)
        if pass_s <= HOPELESS * usual_s and len(self._tried) < TRIAL_PASSES:
            return
        if median(self._tried) < BETTER * usual_s and self._trial is not None:
            self._current, self._interval = self._trial, MIN_INTERVAL
            self._recent = deque(self._tried, maxlen=8)
        else:
            self._interval = min(2 * self._interval, MAX_INTERVAL)
        self._trial, self._left = None, self._interval
