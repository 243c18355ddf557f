"""Whether a metrics.json has the form that the page draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from eca_mmdet.errors import UserError

_COUNTS = ('f1', 'tp', 'fp', 'fn')


def check_results(record: dict[str, Any]) -> None:
    """Refuse results that are not numbers by name.

    Raises:
        UserError: saying which.
    """
    results = record.get('results')
    if not isinstance(results, dict) or not results:
        _refuse('results', 'an object with a task or more', results)
    for task, one in results.items():
        metrics = one.get('metrics') if isinstance(one, dict) else None
        if not _is_table(metrics, _is_number_or_none):
            _refuse(f'results.{task}.metrics', 'numbers by name', metrics)
        for each in one.get('classes') or []:
            known = isinstance(each, dict) and 'name' in each
            if not known or not _is_table(each.get('metrics'), _is_number_or_none):
                _refuse(f'results.{task}.classes', 'names with their numbers', each)
    for key in ('annotations', 'checkpoint', 'predictions', 'versions'):
        if not isinstance(record.get(key) or {}, dict):
            _refuse(key, 'an object', record[key])
    if not _is_list(record.get('notes') or [], lambda one: isinstance(one, str)):
        _refuse('notes', 'a list of texts', record['notes'])


def check_analysis(record: dict[str, Any]) -> None:
    """Refuse an analysis of another form than ``eca-mmdet eval --analysis`` writes.

    Raises:
        UserError: saying which part.
    """
    analyses = record.get('analysis') or []
    if not _is_list(analyses, lambda one: isinstance(one, dict)):
        _refuse('analysis', 'a list of objects', analyses)
    for one in analyses:
        for task, part in one.items():
            if task != 'file':
                if not isinstance(part, dict):
                    _refuse(f'analysis.{task}', 'an object', part)
                _check_task(task, part)


def _check_task(task: str, part: dict[str, Any]) -> None:
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        'pr_curves': (_are_curves, 'lists of equal length'),
        'errors': (_are_errors, 'an object with delta_ap'),
        'confusion': (_is_confusion, 'classes and a square matrix of counts'),
        'calibration': (_is_calibration, 'ece and bins'),
        'worst_images': (_are_images, 'images with counts and detections'),
        'best_images': (_are_images, 'images with counts and detections'),
    }
    for key, (is_right, expected) in checks.items():
        if part.get(key) is not None and not is_right(part[key]):
            _refuse(f'analysis.{task}.{key}', expected, part[key])


def _refuse(what: str, expected: str, got: Any) -> NoReturn:
    raise UserError(f'its {what} must be {expected}; got {repr(got)[:80]}')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_table(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_right, value.values()))


def _has_numbers(value: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(key)) for key in keys)


def _are_curves(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_list(value.get('recall'), _is_number):
        return False
    curves = [one for one in value.values() if one is not None]
    return all(
        _is_list(one, _is_number_or_none) and len(one) == len(value['recall'])
        for one in curves
    )


def _are_errors(value: Any) -> bool:
    return isinstance(value, dict) and _is_table(
        value.get('delta_ap'), _is_number_or_none
    )


def _is_confusion(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get('classes'), list):
        return False
    size = len(value['classes'])
    return (
        _is_list(value['classes'], lambda one: isinstance(one, str))
        and _is_list(value.get('matrix'), lambda row: _is_list(row, _is_number))
        and [len(row) for row in value['matrix']] == [size] * size
    )


def _is_calibration(value: Any) -> bool:
    return _has_numbers(value, ('ece',)) and _is_list(
        value.get('bins'),
        lambda one: (
            isinstance(one, dict)
            and (
                not one.get('count')
                or _has_numbers(one, ('count', 'avg_confidence', 'avg_accuracy'))
            )
        ),
    )


def _are_images(value: Any) -> bool:
    return _is_list(
        value,
        lambda one: (
            _has_numbers(one, _COUNTS)
            and 'image_id' in one
            and _is_list(one.get('detections'), _is_detection)
        ),
    )


def _is_detection(value: Any) -> bool:
    if not _has_numbers(value, ('score',)) or 'category_id' not in value:
        return False
    box, mask = value.get('bbox'), value.get('segmentation')
    is_box = _is_list(box, _is_number) and len(box) == 4
    return is_box or (isinstance(mask, dict) and {'size', 'counts'} <= mask.keys())
