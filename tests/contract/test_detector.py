"""A stored training and its detector: resumed, tested, drawn, exported."""

import json
import os
import subprocess

import pytest

from tests.conftest import PYTHON, REPOSITORY
from tests.contract.inputs import CLASSES, RUN, draw_objects, write_run
from tests.contract.recorded import check, differences, hide, key_paths

CONFIG = 'work/retinanet.py'
CHECKPOINT = 'work/iter_4.pth'


@pytest.mark.openmmlab
def test_training_of_0_1_is_resumed(tmp_path):
    """The steps after the checkpoint are those of the training that went on."""
    write_run(tmp_path)
    # A process of its own: mmengine keeps the log of a training for the next one.
    words = f'-m eca_mmdet.cli train {CONFIG} --work-dir work --resume'.split()
    done = subprocess.run(
        [PYTHON, *words],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logs = sorted(tmp_path.glob('work/*/vis_data/scalars.json'))
    assert len(logs) == 2
    entries = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    steps = {str(entry['iter']): entry for entry in entries if 'iter' in entry}
    expected = json.loads((RUN / 'losses.json').read_text())
    assert steps.keys() == expected.keys()
    found = {
        step: {key: steps[step][key] for key in values}
        for step, values in expected.items()
    }
    assert differences(found, expected, rtol=1e-3) == []
    work = tmp_path / 'work'
    assert (work / 'last_checkpoint').read_text().endswith('iter_8.pth')
    assert (work / 'iter_8.pth').is_file()


def test_keys_of_metrics_json(eca_mmdet_command, folder):
    line = f'test {CONFIG} {CHECKPOINT} --work-dir tested --json'
    code, out, error = eca_mmdet_command(line)
    assert code == 0, error
    printed = json.loads(out[out.index('\n{') :] if '\n{' in out else out)
    written = json.loads(next(folder.glob('tested/*/metrics.json')).read_text())
    check('test_keys.json', [key_paths(printed), key_paths(written)])


def test_gates_json(eca_mmdet_command, folder):
    line = f'gates {CHECKPOINT} --images data/annotations/val.json --device cpu'
    code, out, error = eca_mmdet_command(f'{line} --out gates --json')
    assert code == 0, error
    written = json.loads((folder / 'gates' / 'gates.json').read_text())
    assert key_paths(json.loads(out)) == key_paths(written)
    check('gates_keys.json', key_paths(written))
    check('gates.json', hide(written, ['versions', 'date']), rtol=1e-3, atol=1e-5)
    names = sorted(path.name for path in (folder / 'gates').iterdir())
    assert names == ['gates.json', 'gates.png']


def test_predictions_json(eca_mmdet_command, folder):
    line = f'predict {CHECKPOINT} data/val --score-thr 0 --device cpu --out predicted'
    code, _, error = eca_mmdet_command(line)
    assert code == 0, error
    written = json.loads((folder / 'predicted' / 'predictions.json').read_text())
    assert written['annotations']
    check('predictions_keys.json', key_paths(written))
    best = {image['file_name']: 0.0 for image in written['images']}
    names = {image['id']: image['file_name'] for image in written['images']}
    for entry in written.pop('annotations'):
        name = names[entry['image_id']]
        best[name] = max(best[name], entry['score'])
    check('predictions.json', hide(written, ['eca_mmdet']) | dict(best=best), rtol=1e-3)


def test_metadata_of_onnx(eca_mmdet_command, folder):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    line = f'export onnx {CONFIG} {CHECKPOINT} detector.onnx --size 64 64'
    code, _, error = eca_mmdet_command(line)
    assert code == 0, error
    model = onnx.load('detector.onnx')
    entries = {entry.key: entry.value for entry in model.metadata_props}
    (key, content), *others = entries.items()
    assert (key, others) == ('eca_mmdet', [])
    check('onnx_metadata.json', hide(json.loads(content), ['eca_mmdet']))
    names = [[value.name for value in model.graph.input]]
    names.append([value.name for value in model.graph.output])
    check('onnx_names.json', names)

    from eca_mmdet.export import OnnxDetector

    detector = OnnxDetector('detector.onnx')
    assert list(detector.classes) == list(CLASSES)
    predictions = detector.predict([draw_objects(11)[0], draw_objects(12)[0]])
    check('prediction_fields.json', sorted(vars(predictions[0])))
