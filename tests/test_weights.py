"Files of weights that are refused, checksums, and downloads that go wrong."
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from fstcn.weight_formats import WeightsError, imagenet_state
from fstcn.weights import fetch_weights

SHAPES = {
    'features.0': (6, 3, 7, 7), 'features.4': (8, 6, 5, 5), 'features.8': (10, 8, 3, 3),
    'features.10': (12, 10, 3, 3), 'features.12': (7, 12, 3, 3),
    'classif.0': (16, 63), 'classif.3': (9, 16), 'classif.6': (11, 9)}


def vggm_state():
    "A narrow CNN-M with random weights, as `pretrainedmodels` names them."
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in SHAPES.items():
        state[f'{name}.weight'] = torch.randn(shape, generator=rng)
        state[f'{name}.bias'] = torch.randn(shape[0], generator=rng)
    return state


def as_in_2017(tensor, _):
    "How PyTorch pickled a tensor then."
    place = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    return torch._utils._rebuild_tensor, (tensor._typed_storage(), *place)


@pytest.fixture
def saved(tmp_path):
    "A function that saves a state under a name."
    def save(name, state):
        torch.save(state, tmp_path/name)
        return tmp_path/name
    return save


@pytest.fixture
def pth(saved): return saved('vggm.pth', vggm_state())


@pytest.fixture
def old_pth(tmp_path, monkeypatch):
    path = tmp_path/'2017.pth'
    with monkeypatch.context() as m:
        m.setattr(torch.Tensor, '__reduce_ex__', as_in_2017)
        torch.save(vggm_state(), path, _use_new_zipfile_serialization=False)
    return path


def refused(path, reason, **options):
    with pytest.raises(WeightsError, match=re.escape(reason)): imagenet_state(path, **options)


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path/'nowhere.pth', 'nowhere.pth: no such file')


def test_files_that_hold_nothing_of_use(tmp_path):
    (tmp_path/'text.pth').write_text('<html>404</html>')
    (tmp_path/'empty.pth').touch()
    for name in ('text.pth', 'empty.pth'): refused(tmp_path/name, f'{name}: damaged')


def test_weights_of_another_network(saved):
    linear = saved('linear.pth', nn.Linear(2, 2).state_dict())
    refused(linear, 'not those of vggm: features.0.weight')
    refused(saved('extra.pth', vggm_state() | {'extra': torch.zeros(1)}), 'extra')
    vgg_f = vggm_state() | {'features.0.weight': torch.zeros(6, 3, 11, 11)}
    refused(saved('f.pth', vgg_f), '(11, 11)')


def test_a_mean_of_two_colors(pth):
    with pytest.raises(ValueError, match='2 values'): imagenet_state(pth, mean=(1, 2))


def test_a_file_that_runs_code(saved):
    refused(saved('code.pth', {'features.0.weight': threading.Thread}), 'code.pth: damaged')


def test_other_files_of_matlab(tmp_path):
    savemat(tmp_path/'dag.mat', {'layers': np.array([(1,)], dtype=[('name', 'O')]), 'params': 1})
    refused(tmp_path/'dag.mat', 'no SimpleNN')
    (tmp_path/'v73.mat').write_bytes(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + bytes(400))
    refused(tmp_path/'v73.mat', '-v7')


def test_a_tensor_that_refers_to_no_storage(old_pth):
    assert imagenet_state(old_pth).format == 'vggm'
    whole = old_pth.read_bytes()
    key = re.search(rb'(?<=\0\0\0)\d{3,}(?=q)', whole)
    spoiled = old_pth.with_name('key.pth')
    spoiled.write_bytes(whole[:key.start()] + b'1'*len(key[0]) + whole[key.end():])
    refused(spoiled, 'key.pth: damaged')


@pytest.mark.parametrize('share', [.001, .01, .3, .7, .99])
def test_files_that_are_cut(tmp_path, pth, old_pth, share):
    save_file(vggm_state(), tmp_path/'vggm.safetensors')
    for source in (pth, old_pth, tmp_path/'vggm.safetensors'):
        assert imagenet_state(source).n_classes == 11
        whole, cut = source.read_bytes(), tmp_path/f'cut{source.suffix}'
        cut.write_bytes(whole[:int(len(whole)*share)])
        refused(cut, f'{cut.name}: damaged')


@pytest.fixture
def digest(pth): return hashlib.sha256(pth.read_bytes()).hexdigest()


def test_two_checksums_that_agree(pth, digest):
    for behind, beside in ((digest[:8], digest), (digest, digest[:8].upper())):
        assert fetch_weights(f'{pth}#sha256={behind}', beside) == pth


def test_checksums_that_do_not_agree(pth, digest):
    wrong = digest[:8] + '0'*56
    with pytest.raises(WeightsError, match=f'{digest}, not {digest[:8]}00'):
        fetch_weights(f'{pth}#sha256={digest[:8]}', wrong)
    with pytest.raises(ValueError, match='only one can be right'):
        fetch_weights(f'{pth}#sha256={digest}', '0'*64)
    with pytest.raises(ValueError, match='hexadecimal'): fetch_weights(pth, 'xyz')


def test_nothing_to_fetch(tmp_path):
    gone, cache = tmp_path/'nowhere.pth', tmp_path/'cache'
    with pytest.raises(WeightsError, match='nowhere.pth: no such file'): fetch_weights(gone)
    for url in ('http://127.0.0.1:9/vggm.pth', 'nosuch://host/vggm.pth', gone.as_uri()):
        with pytest.raises(WeightsError, match='cannot be downloaded'):
            fetch_weights(url, folder=cache)


@pytest.fixture
def site(pth, monkeypatch):
    "The address of a server, and what it was asked for."
    asked, data = [], pth.read_bytes()
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == '/none.pth': return self.send_error(404)
            self.send_response(200)
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data[:1000] if self.path == '/cut.pth' else data)
        def log_message(self, *args): pass
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = HTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()
    server.server_close()


def test_a_download_is_made_once(site, pth, digest, tmp_path):
    address, asked = site
    for _ in range(2):
        copy = fetch_weights(f'{address}/vggm.pth', digest, tmp_path/'cache')
        assert copy.read_bytes() == pth.read_bytes()
    assert asked == ['/vggm.pth']


def test_a_download_that_breaks_off_is_not_kept(site, tmp_path):
    address, _ = site
    with pytest.raises(WeightsError, match='broke off after 1000 of'):
        fetch_weights(f'{address}/cut.pth', folder=tmp_path/'cache')
    assert list((tmp_path/'cache').iterdir()) == []


def test_pytorch_still_keeps_a_download_that_broke_off(site, tmp_path):
    "The day this is mended, ours can go."
    address, _ = site
    torch.hub.download_url_to_file(f'{address}/cut.pth', str(tmp_path/'cut.pth'), progress=False)
    assert (tmp_path/'cut.pth').stat().st_size == 1000


def test_a_file_that_the_server_does_not_know(site, tmp_path):
    address, _ = site
    with pytest.raises(WeightsError, match='404'):
        fetch_weights(f'{address}/none.pth', folder=tmp_path/'cache')
    assert not (tmp_path/'cache').exists()


def test_a_spoiled_copy_is_replaced_where_a_checksum_tells(site, pth, digest, tmp_path):
    url = f'{site[0]}/vggm.pth'
    copy = fetch_weights(url, folder=tmp_path/'cache')
    copy.write_bytes(b'spoiled')
    assert fetch_weights(url, digest, tmp_path/'cache').read_bytes() == pth.read_bytes()
    assert [p.name.partition('-')[2] for p in (tmp_path/'cache').iterdir()] == ['vggm.pth']
