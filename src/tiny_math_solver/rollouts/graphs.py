"""CUDA graphs of a decode step: recorded once for each number of rows, rounded up, and replayed."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from weakref import WeakSet

import torch
from torch import Tensor

GRAPH_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
ROWS_BEYOND = 256  # more are rounded up to a multiple of
GPU_SYNC_EVERY = 8  # steps between looks at what is done
STREAMS = 32  # that torch hands out in turn

_recorders: "WeakSet[StepGraphs]" = WeakSet()  # those that have a stream


class StepGraphs:
    """The graphs of one decoder; `state` are the tensors that a step changes other than caches.

    Each has a stream of its own for recording. cuBLAS keeps a workspace for each stream, whose address graphs hold, and
    newer versions of torch free it with the first graph recorded there that goes.
    """

    def __init__(self, state: Sequence[Tensor]):
        self.state = state
        self.graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def clear(self) -> None:
        self.graphs.clear()

    def run(self, step: Callable[..., None], rows: int, slots: int, *shape: int) -> None:
        """`step(rows, *shape)`; on a GPU, with at least as many rows, by the graph for that shape."""
        if not self.state[0].is_cuda:
            step(rows, *shape)
            return
        rows = min(rounded_up(rows), slots)
        graph = self.graphs.get((rows, *shape))
        if graph is None:
            graph = self.graphs[rows, *shape] = self._capture(lambda: step(rows, *shape))
        graph.replay()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        taken = {other._stream.cuda_stream for other in _recorders}
        stream = torch.cuda.Stream()
        for _ in range(STREAMS):
            if stream.cuda_stream not in taken:
                break
            stream = torch.cuda.Stream()
        _recorders.add(self)
        return stream

    def _capture(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        before, stream = [part.clone() for part in self.state], self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what libraries set up at their first call cannot be captured
            step()
        torch.cuda.current_stream().wait_stream(stream)
        for part, value in zip(self.state, before, strict=True):
            part.copy_(value)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            step()
        return graph


def rounded_up(rows: int) -> int:
    """The rows of the graph that steps `rows` rows."""
    return next((size for size in GRAPH_ROWS if size >= rows), -(-rows // ROWS_BEYOND) * ROWS_BEYOND)
