import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation.masking import PLACEHOLDERS, mask_column, mask_rows, mask_text
from lode import app

TEXTS = {
    "拨打13812345678或010-12345678": "拨打[PHONE]或[PHONE]",
    "拨打１３８１２３４５６７８": "拨打[PHONE]",
    "写信 a.b@mail.example.com，谢谢": "写信 [EMAIL]，谢谢",
    "加QQ：123456789 或微信号：abc_12345": "加QQ：[QQ] 或微信号：[WECHAT]",
    "微信号：13812345678": "微信号：[PHONE]",  # also a WeChat account: replaced once
    "微信号：13812345678ab": "微信号：[WECHAT]",
    "身份证11010519491231002X，卡6222 0234 5678 9016": "身份证[ID]，卡[CARD]",
    "没有号码，订单 6222023456789017": "没有号码，订单 6222023456789017",
    "": "",
}


def test_personal_data_is_replaced_by_what_it_is() -> None:
    assert {text: mask_text(text) for text in TEXTS} == TEXTS


def test_a_masked_text_is_masked_and_nothing_is_found_in_it() -> None:
    for masked in TEXTS.values():
        assert mask_text(masked) == masked
    assert all(mask_text(f"前{mark}后") == f"前{mark}后" for mark in PLACEHOLDERS.values())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_column_keeps_its_nulls_its_order_and_what_needs_no_mask(kind: pa.DataType) -> None:
    column = pa.array([*TEXTS, None], kind)
    assert mask_column(column).equals(pa.array([*TEXTS.values(), None], kind))
    assert mask_column(column[2:]).equals(pa.array([*TEXTS.values(), None], kind)[2:])


def test_lists_of_texts_are_masked_text_by_text() -> None:
    column = pa.array([["13812345678", None], None, [], ["好"]], pa.list_(pa.string()))
    expected = pa.array([["[PHONE]", None], None, [], ["好"]], pa.list_(pa.string()))
    assert mask_column(column).equals(expected)
    assert mask_column(column[1:]).equals(expected[1:])


@pytest.mark.parametrize("value", [{"phone": "13812345678"}, b"13812345678"])
def test_a_column_that_could_hide_text_is_refused_before_any_row(value: object) -> None:
    table = pa.table({"raw": [value]})
    with pytest.raises(ValueError, match=r"raw: a column of .* cannot be masked: select its texts"):
        mask_rows(table.to_reader())


def test_the_command_masks_rows_and_leaves_the_catalog_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    texts = [*filter(None, TEXTS)]
    lines = [json.dumps({"query": f"问{row}", "positive": text}) for row, text in enumerate(texts)]
    source.write_text("\n".join(lines), "utf-8")
    catalog, out = str(tmp_path / "c"), tmp_path / "out.parquet"
    run = CliRunner().invoke
    query = "select pair_id, positive from pairs order by 1"
    for command in (
        ["init", catalog],
        ["ingest", str(source), "--catalog", catalog, "--workers", "1"],
        ["mask", query, "--catalog", catalog, "-f", "parquet", "-o", str(out)],
    ):
        result = run(app, command)
        assert result.exit_code == 0, result.output
    assert pq.read_table(out)["positive"].to_pylist() == [TEXTS[text] for text in texts]
    stored = run(app, ["sql", query, "-f", "json", "--catalog", catalog])
    assert "13812345678" in stored.output
