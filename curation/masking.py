"""Texts without personal data: what the signals count, replaced by what it is.

The stored text is never rewritten: a masked text is a view, made when somebody reads it.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.signals.markers import find_marks, may_hold_contacts
from curation.signals.personal import find_numbers, may_hold_numbers
from curation.texts import decode

PLACEHOLDERS: Final = {
    "id_cards": "[ID]",
    "bank_cards": "[CARD]",
    "emails": "[EMAIL]",
    "phones": "[PHONE]",
    "qq_ids": "[QQ]",
    "wechat_ids": "[WECHAT]",
}
_CONTACTS: Final = ("emails", "phones", "qq_ids", "wechat_ids")


def mask_text(text: str) -> str:
    """Replace personal data in one text; of two finds that overlap, the first and longer one."""
    found = find_numbers(text)
    found += [(name, *span) for name in _CONTACTS for span in find_marks(name, text)]
    pieces, done = [], 0
    for name, start, end in sorted(found, key=lambda one: (one[1], -one[2])):
        if start >= done:
            pieces += [text[done:start], PLACEHOLDERS[name]]
            done = end
    return "".join([*pieces, text[done:]])


def mask_column(column: pa.Array) -> pa.Array:
    """Replace personal data in the texts of a column; null stays null.

    A column without text is given back, a list of texts is masked text by text. ValueError for one
    that may hide text where it is not looked for: structs, maps, binaries.
    """
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _mask_strings(column)
    if pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        masked = mask_column(column.flatten())
        return pa.ListArray.from_arrays(offsets, masked, kind, mask=column.is_null())
    has_numbers = pa.types.is_primitive(kind) or pa.types.is_decimal(kind)
    if has_numbers or pa.types.is_null(kind) or kind == pa.uuid():
        return column
    raise ValueError(f"a column of {kind} cannot be masked: select its texts, or leave it out")


def _mask_strings(column: pa.Array) -> pa.Array:
    texts = decode(column)
    flagged = may_hold_contacts(texts) | may_hold_numbers(texts)
    masked = [mask_text(texts.text(int(row))) for row in np.flatnonzero(flagged)]
    return pc.replace_with_mask(column, pa.array(flagged), pa.array(masked, column.type))


def mask_rows(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Mask each batch as it is read; a column that cannot be masked is refused before any."""
    for field in reader.schema:
        try:
            mask_column(pa.array([], field.type))
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}") from error

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            yield pa.record_batch([mask_column(one) for one in batch], schema=reader.schema)

    return pa.RecordBatchReader.from_batches(reader.schema, batches())
