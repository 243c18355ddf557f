"""Whether a metrics.json has the form that the page draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

from eca_mmdet.utils.errors import UserError

_MOST = 10**12
"""Of a count."""

Test = Callable[[Any], bool]


def check_results(record: Any) -> None:
    """Refuse a record whose entries are not what the page takes them for.

    Raises:
        UserError: saying which.
    """
    if not isinstance(record, dict):
        _refuse('record', 'an object', record)
    results = record.get('results')
    if not isinstance(results, dict) or not results:
        _refuse('results', 'an object with a task or more', results)
    for task, one in results.items():
        if not isinstance(one, dict):
            _refuse(f'results.{task}', 'an object', one)
        _check_task_results(task, one)
    for key, fields in _FILES.items():
        _check(record, key, lambda one, fields=fields: _has_texts(one, fields))  # type: ignore[misc]
    _check(record, 'versions', _table_of(_is_text))
    _check(record, 'notes', _list_of(_is_text))
    _check(record, 'others', _list_of(lambda one: isinstance(one, dict)))
    for key in ('date', 'config'):
        _check(record, key, _is_text)
    for key in ('epoch', 'iter'):
        _check(record, key, _is_count)


_FILES = {
    key: ('file', 'sha256') for key in ('annotations', 'checkpoint', 'predictions')
}


def _check_task_results(task: str, one: dict[str, Any]) -> None:
    metrics = one.get('metrics')
    if not _table_of(_is_share_or_none)(metrics):
        _refuse(f'results.{task}.metrics', 'shares from 0 to 1 by name', metrics)
    _check(one, 'max_dets', _list_of(_is_count), f'results.{task}.')
    _check(one, 'counts', _table_of(_is_count), f'results.{task}.')
    _check(one, 'classes', lambda value: isinstance(value, list), f'results.{task}.')
    for each in one.get('classes') or []:
        known = isinstance(each, dict) and _is_text(each.get('name'))
        if not known or not _table_of(_is_share_or_none)(each.get('metrics')):
            _refuse(f'results.{task}.classes', 'names with their shares', each)
        _check(each, 'objects', _is_count, f'results.{task}.classes.')


def check_analysis(record: dict[str, Any]) -> None:
    """Refuse an analysis of another form than ``eca-mmdet eval --analysis`` writes.

    Raises:
        UserError: saying which part.
    """
    _check(record, 'analysis', _list_of(lambda one: isinstance(one, dict)))
    for one in record.get('analysis') or []:
        for task, part in one.items():
            if task == 'file':
                continue
            if not isinstance(part, dict):
                _refuse(f'analysis.{task}', 'an object', part)
            for key, is_right in _PARTS.items():
                _check(part, key, is_right, f'analysis.{task}.')


def _check(holder: dict[str, Any], key: str, is_right: Test, where: str = '') -> None:
    """Refuse an entry that is there and of another form."""
    value = holder.get(key)
    if value is not None and not is_right(value):
        _refuse(f'{where}{key}', 'as eca-mmdet writes it', value)


def _refuse(what: str, expected: str, got: Any) -> NoReturn:
    raise UserError(f'its {what} must be {expected}; got {repr(got)[:80]}')


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (
        plain
        and (isinstance(value, int) or math.isfinite(value))
        and (abs(value) <= _MOST)
    )


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_share_or_none(value: Any) -> bool:
    return value is None or _is_share(value)


def _list_of(is_right: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _table_of(is_right: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _has_texts(value: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(
        value.get(key) is None or _is_text(value[key]) for key in keys
    )


def _has(value: Any, is_right: Test, *keys: str) -> bool:
    return isinstance(value, dict) and all(is_right(value.get(key)) for key in keys)


def _are_curves(value: Any) -> bool:
    if not isinstance(value, dict) or not _list_of(_is_share)(value.get('recall')):
        return False
    curves = [one for one in value.values() if one is not None]
    return all(
        _list_of(_is_share_or_none)(one) and len(one) == len(value['recall'])
        for one in curves
    )


def _are_errors(value: Any) -> bool:
    # A mended error can take AP away, too.
    return isinstance(value, dict) and _table_of(
        lambda one: one is None or (_is_number(one) and -1 <= one <= 1)
    )(value.get('delta_ap'))


def _is_confusion(value: Any) -> bool:
    if not isinstance(value, dict) or not _list_of(_is_text)(value.get('classes')):
        return False
    size = len(value['classes'])
    return _list_of(_list_of(_is_count))(value.get('matrix')) and (
        [len(row) for row in value['matrix']] == [size] * size
    )


def _is_calibration(value: Any) -> bool:
    return _has(value, _is_share, 'ece') and _list_of(_is_bin)(value.get('bins'))


def _is_bin(value: Any) -> bool:
    return _has(value, _is_count, 'count') and (
        not value['count'] or _has(value, _is_share, 'avg_confidence', 'avg_accuracy')
    )


def _is_image(value: Any) -> bool:
    return (
        _has(value, _is_share, 'f1')
        and _has(value, _is_count, 'tp', 'fp', 'fn')
        and isinstance(value.get('image_id'), (int, str))
        and _list_of(_is_detection)(value.get('detections'))
    )


def _is_detection(value: Any) -> bool:
    if not _has(value, _is_number, 'score'):
        return False
    if not isinstance(value.get('category_id'), (int, str)):
        return False
    box, mask = value.get('bbox'), value.get('segmentation')
    if _list_of(_is_number)(box) and len(box) == 4:
        return True
    return (
        _has(mask, _is_text, 'counts')
        and _list_of(_is_count)(mask.get('size'))
        and len(mask['size']) == 2
    )


_PARTS: dict[str, Test] = {
    'score_threshold': _is_number,
    'pr_curves': _are_curves,
    'errors': _are_errors,
    'confusion': _is_confusion,
    'calibration': _is_calibration,
    'worst_images': _list_of(_is_image),
    'best_images': _list_of(_is_image),
}
