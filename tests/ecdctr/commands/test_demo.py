import subprocess
import sys

import pytest

from ecdctr.commands.demo import _LiveRun
from ecdctr.state.errors import StreamError


def test_a_process_of_the_demo_that_does_not_end_is_named_with_its_log(tmp_path):
    run = _LiveRun.__new__(_LiveRun)
    run.folder = tmp_path
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(StreamError, match=r"the worker did not end in 0 s: see .*worker\.log"):
            run._exit_code(process, "worker", 0.01)
        process.communicate(b"\n")
    assert run._exit_code(process, "worker", 0.01) == 0
