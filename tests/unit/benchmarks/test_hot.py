"""Which functions of the compiled build a profile names."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hot import functions, write

ANNOTATED = """
  248,100 ( 0.48%)  ???:CPyDef_encode___request_head [/x/streamproxy__mypyc.cpython-311-x86_64-linux-gnu.so]
   34,600 ( 0.46%)  ???:CPyDef_pool___Pool___reusable.part.0 [/x/streamproxy__mypyc.cpython-311-x86_64-linux-gnu.so]
  204,000 ( 0.40%)  ???:CPyBytes_Concat [/x/streamproxy__mypyc.cpython-311-x86_64-linux-gnu.so]
  104,000 ( 0.20%)  ???:relay___Relay_dealloc'2 [/x/streamproxy__mypyc.cpython-311-x86_64-linux-gnu.so]
  904,000 ( 9.40%)  ???:_PyEval_EvalFrameDefault [/usr/bin/python3.11]
    4,000 ( 0.01%)  ???:loop___handle [/x/uvloop/loop.so]
"""


def test_functions_are_ours_alone_and_whole(tmp_path: Path) -> None:
    found = functions(ANNOTATED)
    assert found == {"CPyDef_encode___request_head", "CPyDef_pool___Pool___reusable", "relay___Relay_dealloc"}
    write(tmp_path / "list", found)
    assert (tmp_path / "list").read_text().split() == sorted(found)
