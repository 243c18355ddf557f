"""Reading of JSON: faster than the json module, with its values."""

import gc
import json
import weakref

import pytest

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import frozen_objects, read_json, write_json

TEXTS = (
    *('-0', '-0.0', '1e5', '1E400', '1e-400', '5e-324', '9007199254740993.0', '1.0'),
    *('18446744073709551616', '-9223372036854775809', '9' * 400, '9' * 5000),
    *('0.1000000000000000055511151231257827', '2.2250738585072011e-308'),
    *('NaN', '[Infinity, -Infinity]', '{"a": 1, "a": [true, null]}', '"\\ud800"'),
    *('"a\\u0000\\u00e9\x7f"', '"é龍"', '\ufeff[1]', ' [1]\n', '[1,]', '01', '1.'),
    *('"\t"', '[1] x', '[1]\0', '{"a"', '[' * 100_000, '{"a":' * 100_000),
)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'latin-1'])
@pytest.mark.parametrize('text', TEXTS, ids=lambda text: ascii(text[:20]))
def test_values_are_those_of_the_json_module(tmp_path, text, encoding):
    path = tmp_path / 'a.json'
    path.write_bytes(text.encode(encoding, 'replace'))
    try:
        expected = repr(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        with pytest.raises(UserError) as caught:
            read_json(path, 'file')
        assert caught.value.code == 'not-json'
    else:
        assert repr(read_json(path, 'file').content) == expected
    assert gc.isenabled()


def test_sequences_are_written_and_bytes_are_not(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, {'a': range(3)}, indent=None)
    assert json.loads(path.read_text()) == {'a': [0, 1, 2]}
    with pytest.raises(TypeError, match='bytes has no form in JSON'):
        write_json(path, {'counts': b'01'})


def test_frozen_objects_keep_no_garbage():
    class Cycle:
        pass

    gc.disable()
    try:
        garbage = Cycle()
        garbage.itself = garbage
        seen = weakref.ref(garbage)
        del garbage
        with frozen_objects():
            assert seen() is None and gc.get_freeze_count() > 0
    finally:
        gc.enable()
    assert gc.get_freeze_count() == 0
