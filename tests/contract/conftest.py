"""A folder with small inputs as the working directory, and the command line in it."""

import contextlib
import io
from pathlib import Path

import pytest

from tests.contract import inputs


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    """A folder with data/, work/ (a stored run) and files beside them."""
    folder = tmp_path_factory.mktemp('contract')
    inputs.write_run(folder)
    val = folder / 'data' / 'annotations' / 'val.json'
    inputs.write_results(val, folder / 'good.json', shift=1)
    inputs.write_results(val, folder / 'bad.json', shift=4)
    inputs.write_faulty(val, folder / 'faulty.json')
    inputs.write_backbone(folder / 'backbone.pth')
    inputs.write_broken(folder)
    inputs.write_yolo(folder / 'yolo')
    return folder


@pytest.fixture
def folder(prepared, monkeypatch):
    """The prepared folder, entered. Tests create files there, and change none."""
    monkeypatch.chdir(prepared)
    monkeypatch.setenv('COLUMNS', '5000')
    monkeypatch.setenv('NO_COLOR', '1')
    return prepared


@pytest.fixture
def eca_mmdet_command(folder):
    """Run a command line that is one string: (exit code, stdout, stderr)."""
    from eca_mmdet.cli import main

    def run(line):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(line.split())
            except SystemExit as exit:  # argparse
                code = exit.code or 0
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def repository():
    return Path(__file__).resolve().parents[2]
