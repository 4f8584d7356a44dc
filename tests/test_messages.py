"""What the system's errors mean to a user: one sentence that says what to do."""

import argparse
import errno

import pytest
import torch

from messages import message

WORKER = "DataLoader worker (pid 4711) is killed by signal: {}. "


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "x", "runs/a.ckpt"),
            ["runs/a.ckpt", "no space left on device", "make room", "--continue"],
        ),
        (OSError(errno.ENOSPC, "Can't write data (file write failed: ...)"), ["no space left on device; make room"]),
        (OSError(errno.EDQUOT, "x", "runs"), ["quota", "make room"]),
        (OSError(errno.EROFS, "x", "data"), ["data", "read-only", "--data.root"]),
        (PermissionError(errno.EACCES, "x", "data"), ["data", "permission denied", "change them"]),
        (FileExistsError(errno.EEXIST, "x", "out"), ["out", "file exists", "choose another folder"]),
        (NotADirectoryError(errno.ENOTDIR, "x", "out/a"), ["out/a", "not a directory", "choose another folder"]),
        (IsADirectoryError(errno.EISDIR, "x", "out"), ["out", "is a directory", "name a file"]),
        (OSError(errno.EMFILE, "x", "a.h5"), ["too many open files", "ulimit -n"]),
        (MemoryError(), ["memory is not enough; take a smaller --data.batch_size"]),
        (MemoryError("Unable to allocate 3.00 GiB for an array with shape (1,)"), ["not enough for 3.00 GiB more"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"), ["for 20.00 MiB more"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."), ["64 bytes"]),
        (RuntimeError(WORKER.format("Killed")), ["loader process 4711 was killed", "fewer --data.num_workers"]),
        (RuntimeError(WORKER.format("Bus error") + "It is possible"), ["4711", "cut short", "/dev/shm"]),
        (RuntimeError(WORKER.format("Segmentation fault")), ["4711 ended with Segmentation fault", "num_workers 0"]),
        (
            RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"),
            ["process 1, 2 was killed", "or ended by itself", "fewer --data.num_workers"],
        ),
        (FileNotFoundError("x.yaml is no experiment's YAML file"), ["error: x.yaml is no experiment's YAML file"]),
        (ValueError("a plain sentence"), ["error: a plain sentence"]),
    ],
)
def test_the_system_in_plain_words(error: Exception, words: list[str]) -> None:
    said = message(error)
    for word in words:
        assert word in said
    assert len(said.splitlines()) == 1
    assert len(said) <= 310


def test_an_error_of_a_loader_process_reads_like_one_of_the_run() -> None:
    text = (
        "Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nMemoryError"
    )
    assert "take a smaller --data.batch_size" in message(MemoryError(text))


def test_the_signal_is_said_where_the_loader_only_noticed_an_end() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 4711) exited unexpectedly")
    error.__cause__ = RuntimeError(WORKER.format("Bus error"))
    assert "loader process 4711 read what is not there" in message(error)


@pytest.mark.parametrize("text", ["", "\n", "Errors:\n"])
def test_an_error_without_words_is_named(text: str) -> None:
    assert message(ValueError(text)).startswith("error: ValueError(")


def test_a_place_of_which_there_is_only_noise_to_tell() -> None:
    """What jsonargparse says of a class that is none of the kind."""
    text = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'Network'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'FineTuner':
        Parser key "backbone":

          - Expected a path but DCGAN either not accessible or invalid
          - Import path DCGAN does not correspond to a subclass of Classifier
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='backbone', val='DCGAN')"""
    told = message(argparse.ArgumentError(None, text)).splitlines()
    assert told[0].startswith(
        "error: model: FineTuner: backbone: Import path DCGAN does not correspond to a subclass of"
    )


def test_a_tool_says_itself_what_to_do_where_memory_is_not_enough() -> None:
    assert message(MemoryError(), memory="take smaller tiles") == "error: memory is not enough; take smaller tiles"


def test_of_many_lines_the_first_are_told_and_what_to_do() -> None:
    told = message(argparse.ArgumentError(None, "\n".join(f"line {number}" for number in range(9)))).splitlines()
    assert told[:4] == ["error: line 0", "  line 1", "  line 2", "  line 3"]
    assert told[4].startswith("  `--help` lists the flags")
    assert len(told) == 5


def test_a_batch_of_one_is_too_small_for_batchnorm() -> None:
    with pytest.raises(ValueError) as raised:
        torch.nn.BatchNorm1d(3)(torch.zeros(1, 3))
    assert "--data.batch_size of at least 2" in message(raised.value)
