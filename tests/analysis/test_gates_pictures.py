"""The pictures of ``gates.json``: what is drawn, and on which axes."""

import numpy as np

from eca_mmdet.analysis.gate_plots import channels_figure, draw_gates, drawn_classes


def gate(name, values, classes, bounds=(0, 1), **more):
    """An entry of gates.json whose classes differ by 0.1 from one to the next."""
    values = np.asarray(values)
    return {
        **dict(name=name, layer='ECALayer', stage=None, block=None, kernel=None),
        **dict(channels=len(values), range=list(bounds), mean=values.tolist()),
        **dict(deviation=(0 * values).tolist(), class_spread=0.1),
        'by_class': {c: (values + 0.1 * i).tolist() for i, c in enumerate(classes)},
        **dict(dead=0, saturated=0, constant=0, uniform=False),
        **more,
    }


def record_of(classes, *checkpoints):
    return {
        'images': 9,
        'classes': [{'name': name, 'images': 9} for name in classes],
        'checkpoints': [
            {'detector': 'Mask_$RCNN$', 'gates': gates} for gates in checkpoints
        ],
    }


def test_lines_are_the_values_of_the_last_blocks():
    classes = ['$a_1$', '_b']
    random = np.random.default_rng(0).random
    one = [
        gate(f'backbone.layer{s}.{b}.eca', random(8), classes, stage=s, block=b)
        for s, b in ((1, 0), (1, 1), (2, 0))
    ]
    two = [gate('backbone.layer1.bam', 1 + random(4), classes, (1, 2), stage=1)]
    figure = channels_figure(record_of(classes, one, two))
    panels = np.reshape(figure.axes, (4, 2))  # a stage is two rows
    for axes, shown in ((panels[0, 0], one[1]), (panels[2, 0], one[2])):
        for line, name in zip(axes.lines, classes, strict=True):
            assert line.get_ydata().tolist() == shown['by_class'][name]
    for line, difference in zip(panels[1, 0].lines, (-0.05, 0.05), strict=True):
        np.testing.assert_allclose(line.get_ydata(), difference)
    assert panels[0, 1].get_title(loc='left').endswith('stage 1, bam: 4 channels')
    assert panels[0, 1].get_ylim()[0] > 0.9  # another range has another axis
    assert panels[2, 1].lines[:] == [] and not panels[2, 1].axison
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [r'\$a_1\$ (9 images)', '_b (9 images)']


def test_one_axis_for_one_range():
    one, two = ([gate('neck.eca_0', values, [])] for values in ([0.2, 0.4], [0.5, 0.9]))
    left, right = channels_figure(record_of([], one, two)).axes
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] < 0.2 and left.get_ylim()[1] > 0.9
    assert left.lines[0].get_ydata().tolist() == [0.2, 0.4]


def test_many_classes_and_channels(tmp_path, recwarn):
    classes = [f'猫 {index} ' + 'long' * 20 for index in range(80)]
    values = np.linspace(0, 1, 2048)
    record = record_of(classes, [gate('a.layer4.2.se', values, classes, stage=4)])
    assert drawn_classes(record) == classes[:4]
    assert drawn_classes(record_of(classes[:7])) == classes[:7]
    assert draw_gates(record, tmp_path) == tmp_path / 'gates.png'
    assert not recwarn.list
