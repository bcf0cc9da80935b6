"""Networks on OpenVINO's CPU device, shared by all callers.

Each network has one queue of asynchronous infer requests (THROUGHPUT hint: one stream a core), and the images of all
callers go through it together: that is how callers are batched. Joining their images into one tensor was measured on
two cores. It gained nothing for the detector (52 images/s at batch 1, 41-61 at 2-4) and the embedder (113 at batch 1,
106-121 at 2-8), and every image would wait for a whole batch; only the landmarks gained (2,100 to 3,000 a second),
where an image needs half a millisecond.
"""

import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from embed_svc.images import Pixels

Output = NDArray[np.float32]


class Runtime:
    """OpenVINO with its compile cache. Networks are independent of it once loaded."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        """Compiled networks are kept in `cache_dir` (made if absent), which cuts a start from seconds to a fraction."""
        self._core = ov.Core()
        if cache_dir is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
            self._core.set_property({"CACHE_DIR": str(cache_dir)})

    def load(self, xml: Path) -> "Network":
        """Compiles a model in OpenVINO IR whose only input is an NCHW image of one picture."""
        builder = PrePostProcessor(self._core.read_model(xml))
        # Pixels go in as OpenCV has them; the conversion to float NCHW becomes part of the network.
        builder.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        builder.input().model().set_layout(ov.Layout("NCHW"))
        return Network(self._core.compile_model(builder.build(), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}))


class Network:
    """A compiled network that any number of threads may use."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._queue: ov.AsyncInferQueue[Future[Output]] = ov.AsyncInferQueue(compiled)
        self._queue.set_callback(_resolve)
        # start_async looks for an idle request and takes it in two steps: two threads at once can get the same one, and
        # that ends in a segmentation fault (openvino 2026.4, seen within a second with 16 threads).
        self._starting = threading.Lock()
        _, height, width, _ = compiled.input(0).shape
        self.size: tuple[int, int] = (width, height)
        """Width and height of its input image."""

    @property
    def parallel(self) -> int:
        """How many images it works on at the same time."""
        return len(self._queue)

    def submit(self, image: Pixels) -> Future[Output]:
        """Starts on an image of exactly `size` and returns its first output: float32, without the batch dimension.

        Blocks, with the GIL released, while all requests are busy: that bounds what is in flight.
        """
        result: Future[Output] = Future()
        with self._starting:
            self._queue.start_async({0: image[np.newaxis]}, result)
        return result


def _resolve(request: ov.InferRequest, result: Future[Output]) -> None:
    # An exception that leaves this callback would fail every later request of the queue.
    try:
        result.set_result(request.get_output_tensor(0).data[0].copy())
    except Exception as error:
        result.set_exception(error)
