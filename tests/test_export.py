"Exporting where it cannot end well, and what an old runtime makes of it."
import errno
import os
import subprocess
import sys

import onnx
import pytest
import torch

from fstcn.export import EXPORTS, export_model
from fstcn.files import atomic
from fstcn.inference import Recognizer
from fstcn.model import FstCN, FstCNConfig

FULL = '''
import resource, sys
from fstcn.export import export_model
from fstcn.inference import Recognizer
recognizer = Recognizer.load(sys.argv[1], 'cpu')
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as on a full disk
for name in sys.argv[2:]:
    try: export_model(recognizer, name)
    except OSError as e: print(e)
'''


def recognizer(**changes):
    torch.manual_seed(0)
    config = FstCNConfig.small(3, crop_size=76, short_side=76, **changes)
    return Recognizer(FstCN(config).eval(), ('a', 'b', 'c'), device='cpu')


@pytest.mark.faults
def test_a_full_disk_leaves_the_old_file(tmp_path):
    "And the interpreter: PyTorch ends it when its own writer meets one."
    from fstcn.checkpoint import save_checkpoint
    network = save_checkpoint(tmp_path/'net.safetensors', recognizer().model, ('a', 'b', 'c'))
    files = [tmp_path/f'net{suffix}' for suffix in EXPORTS]
    for file in files: file.write_bytes(b'old')
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, '-c', FULL, network, *files]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line.rpartition(': ')[2] for line in ended.stdout.splitlines()] == [
        repr(str(file)) for file in files]
    assert sorted(tmp_path.iterdir()) == before
    assert all(file.read_bytes() == b'old' for file in files)


@pytest.mark.faults
@pytest.mark.parametrize('name', [None, 'part', 'else'])
def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path, name):
    "Not the hidden one, and no other that could not be read meanwhile."
    file = tmp_path/'record.json'
    with pytest.raises(OSError) as said, atomic(file) as part:
        of = {None: (), 'part': (str(part),), 'else': ('else',)}[name]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *of)
    assert said.value.errno == errno.ENOSPC
    assert said.value.filename == ('else' if name == 'else' else str(file))


OLDEST = 13     # opset that ONNX Runtime 1.18 has all of; its Max takes no bytes, nor does its Min


@pytest.mark.faults
@pytest.mark.parametrize('difference', ['absolute', 'signed'])
def test_the_oldest_runtime_computes_with_every_type(tmp_path, difference):
    """ONNX Runtime 1.18 computes largest values, differences, absolute values of no bytes:
    every operation on them is one that takes any type."""
    file = export_model(recognizer(difference=difference), tmp_path/'net.onnx')
    graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
    bytes_ = {v.name for v in (*graph.input, *graph.value_info)
              if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    kinds = {node.op_type for node in graph.node if bytes_ & set(node.input)}
    assert 'pairs' in bytes_
    assert kinds <= {'Cast', 'Gather', 'GatherND', 'Reshape', 'Slice', 'Split', 'Squeeze',
                     'Transpose', 'Unsqueeze', 'Shape'}, kinds
