"""Where the time of an epoch goes: steps, waiting for data, pauses."""

import time


class StepClock:
    """Counts the images of an epoch, and the seconds of three kinds.

    Training waits for data from the end of a step, or the start of the epoch, to the beginning of the next step, less
    the pauses in between. These are the seconds of the process: what a GPU computes meanwhile is not seen.
    """

    def __init__(self) -> None:
        now = time.perf_counter()
        self._started = self._idle_since = self._paused_at = now
        self._paused = self._waited = 0.0
        self.images = 0

    def step_begins(self) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._idle_since

    def step_ends(self, images: int) -> None:
        """A batch of so many images is done with."""
        self.images += images
        self._idle_since = time.perf_counter()

    def pause(self) -> None:
        """Something else than training begins."""
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        """It is over."""
        pause = time.perf_counter() - self._paused_at
        self._paused += pause
        self._idle_since += pause

    @property
    def seconds(self) -> float:
        """Since the start, pauses included."""
        return time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        """Of training alone."""
        return self.images / (self.seconds - self._paused)

    @property
    def data_wait(self) -> float:
        """Share of the training time that went by waiting for data, 0 to 1."""
        return self._waited / (self.seconds - self._paused)
