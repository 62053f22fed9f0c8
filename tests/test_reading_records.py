"""Reading: fields are mapped, and kinds of records are recognized by their names."""

import json

import orjson
import pytest

from curation.reading import SourceSettings, inspect, read_pairs
from tests.sources import TWO, as_parquet, jsonl, read, reasons, sides, write


def test_fields_are_mapped_joined_and_dug_out_of_json(tmp_path):
    row = {
        "instruction": "翻译", "input": "你好", "output": "hello",
        "meta": '{"label": 0.5, "b": 1, "a": null}', "id": "x", "from": "site",
    }  # fmt: skip
    settings = SourceSettings.from_assignments(
        ["query=instruction+input", "positive=output", "label=meta.label", "source=from"],
        ["form=prompt-response", "task=sts", "language=zh"],
    )
    for path in (
        write(tmp_path, "a.jsonl", jsonl(row, {**row, "input": "", "meta": None, "label": 1})),
        write(tmp_path, "a.parquet", as_parquet([row, {**row, "input": "", "meta": None}])),
    ):
        pairs, quarantine = read(path, settings)
        assert sides(pairs) == [("翻译\n你好", "hello")]
        assert pairs[0] | {"form": "prompt-response", "task": "sts", "source": "site"} == pairs[0]
        assert pairs[0]["label"] == 0.5
        assert json.loads(pairs[0]["meta"]) == {"a": None, "b": 1, "id": "x"}
        assert reasons(quarantine) == [(1, "label is missing (task sts)")]
    pairs, _ = read(path, SourceSettings(fields=settings.fields, task="retrieval", keep_meta=False))
    assert sides(pairs)[1] == ("翻译", "hello")
    assert pairs[1]["meta"] is None


def test_meta_keeps_unmapped_fields_with_sorted_keys_and_loses_none_to_a_name_clash(tmp_path):
    rows = [{"query": "q", "positive": "p", "z": [1], "a": {"k": "v"}, "meta": {"z": 2, "y": 3}}]
    for path in (
        write(tmp_path, "a.jsonl", jsonl(*rows)),
        write(tmp_path, "a.parquet", as_parquet(rows)),
    ):
        meta = read(path)[0][0]["meta"]
        assert meta == '{"a":{"k":"v"},"meta.z":2,"y":3,"z":[1]}'


def test_values_of_a_column_are_translated(tmp_path):
    rows = [
        {"query": "q", "positive": "p", "kind": kind, "label": label}
        for kind, label in (("qa", "yes"), ("other", "0.25"), ("qa", "no"), (None, "?"))
    ]
    settings = SourceSettings(
        form="title-content",
        fields={"form": "kind", "label": "label"},
        values={
            "form": {"qa": "question-answer", "*": "text-text"},
            "label": {"yes": 1, "no": 0, "*": float("nan")},
        },
    )
    pairs, _ = read(write(tmp_path, "a.jsonl", jsonl(*rows)), settings)
    assert [pair["label"] for pair in pairs] == [1, 0.25, 0, None]
    forms = ["question-answer", "text-text", "question-answer", "title-content"]
    assert [pair["form"] for pair in pairs] == forms


def test_a_name_that_is_not_allowed_is_quarantined_with_what_to_do(tmp_path):
    rows = [{**TWO[0], "form": "poem"}, {**TWO[1], "form": "text-text"}]
    path = write(tmp_path, "a.jsonl", jsonl(*rows))
    pairs, quarantine = read(path, SourceSettings(fields={"form": "form"}))
    assert len(pairs) == 1
    assert "form 'poem' is none of title-content" in quarantine[0]["reason"]
    assert "values.form" in quarantine[0]["reason"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SourceSettings(fields={"qery": "a"}), "'qery'; did you mean 'query'"),
        (lambda: SourceSettings(form="qa"), "form 'qa'; allowed are auto, title-content"),
        (lambda: SourceSettings(values={"form": {"a": "b"}}), "values.form 'b'; allowed are"),
        (lambda: SourceSettings(values={"label": {"a": "b"}}), "a label is a number"),
        (lambda: SourceSettings(max_text_bytes=0), "max_text_bytes is 0"),
        (lambda: SourceSettings.from_document({"feilds": {}}), "did you mean 'fields'"),
        (lambda: SourceSettings.from_assignments(["query"]), "is not NAME=VALUE"),
        (lambda: SourceSettings.from_assignments([], ["keep_meta=no"]), "give true or false"),
        (lambda: SourceSettings.from_assignments([], ["max_row_bytes=x"]), "number of bytes"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_survive_being_written_down():
    settings = SourceSettings.from_assignments(
        ["query=a"], ["keep_meta=false", "max_row_bytes=9", "form=text-text"]
    )
    assert SourceSettings.from_document(settings.as_document()) == settings
    assert (settings.keep_meta, settings.max_row_bytes) == (False, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": "querry", "positive": "positive"}, "no column 'querry'; did you mean 'query'"),
        ({"query": "query"}, "query is mapped, but positive is not"),
        ({"positive": "positive", "label": "query+positive"}, "label is mapped to 2 columns"),
    ],
)
def test_a_wrong_mapping_is_refused_before_anything_is_read(tmp_path, fields, message):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO))
    with pytest.raises(ValueError, match=message):
        read_pairs(path, SourceSettings(fields=fields), 1)


@pytest.mark.parametrize(
    ("row", "mapping", "kind"),
    [
        ({"text1": "a", "text2": "b", "label": 1},
         "query=text1 positive=text2 label=label", "scored pair, text-text, sts"),
        ({"sentence1": "a", "sentence2": "b", "score": 2.5},
         "query=sentence1 positive=sentence2 label=score", "scored pair, text-text, sts"),
        ({"Question": "a", "Answer": "b"},
         "query=Question positive=Answer", "pair, question-answer, retrieval"),
        ({"title": "a", "content": "b", "url": "u"},
         "query=title positive=content url=url", "pair, title-content, retrieval"),
        ({"标题": "a", "内容": "b"}, "query=标题 positive=内容", "pair, title-content, retrieval"),
        ({"instruction": "a", "input": "", "output": "b"},
         "query=instruction+input positive=output", "pair, prompt-response, retrieval"),
        ({"input": "a", "output": "b"},
         "query=input positive=output", "pair, input-output, retrieval"),
        ({"prompt": "a", "response": "b"},
         "query=prompt positive=response", "pair, prompt-response, retrieval"),
        ({"premise": "a", "hypothesis": "b", "label": "neutral"},
         "query=premise positive=hypothesis", "pair, text-text, retrieval"),
        ({"text": "a", "text_pos": "b", "text_neg": "c"},
         "query=text positive=text_pos negatives=text_neg", "triplet, text-text, retrieval"),
        ({"anchor": "a", "positive": "b", "negative_10": "d", "negative_2": "c"},
         "query=anchor positive=positive negatives=negative_2+negative_10",
         "triplet, text-text, retrieval"),
        ({"query": "a", "pos": ["b"], "neg": []}, "query=query positive=pos negatives=neg",
         "query with lists of passages (FlagEmbedding), text-text, retrieval"),
        ({"query": ["i", "a"], "pos": ["i", "b"], "neg": ["i", "c"]},
         "query=query.1 positive=pos.1 negatives=neg.1 instruction=query.0",
         "instructed triplet (MEDI), text-text, retrieval"),
        ({"_id": "1", "title": "t", "text": "b"},
         "positive=title+text", "document, text-text, retrieval"),
        ({"id": 1, "text": "b", "label": 3}, "positive=text", "document, text-text, retrieval"),
    ],
)  # fmt: skip
def test_records_are_recognized_by_their_names(tmp_path, row, mapping, kind):
    path = write(tmp_path, "a.jsonl", jsonl(row))
    guess = inspect(path)
    assert " ".join(f"{target}={paths}" for target, paths in guess.fields.items()) == mapping
    pair = read(path)[0][0]
    assert f"{guess.kind}, {pair['form']}, {pair['task']}" == kind
    assert pair["positive"][-1] == "b"
    assert (pair["query"] is None) == (guess.kind == "document")


def test_detection_says_what_it_chose(tmp_path):
    path = write(
        tmp_path, "t.jsonl", jsonl({"sentence1": "a", "sentence2": "b", "score": 1, "id": 2})
    )
    assert inspect(path).explanation == (
        "t.jsonl: jsonl, scored pair; columns found by their names: query = sentence1, "
        "positive = sentence2, label = score; id go to meta; source named after the file, "
        "form text-text, task sts where a label is, else retrieval"
    )


def test_several_positives_become_several_pairs_and_new_negatives_become_passages(tmp_path):
    rows = [
        {
            "query": "q1", "pos": ["p1", "p2"], "neg": ["n1", "p3", "n2"], "pos_scores": [0.9, 0.8],
            "neg_scores": [0.1, 0.2, 0.3], "prompt": "do", "type": "normal",
        },
        {"query": "q2", "pos": ["p3"], "neg": ["N1!", "n3"]},
    ]  # fmt: skip
    for path in (
        write(tmp_path, "a.jsonl", jsonl(*rows)),
        write(tmp_path, "a.parquet", as_parquet(rows)),
    ):
        pairs, quarantine = read(path, file_id=2)
        assert quarantine == []
        assert [(p["query"], p["positive"], p["negatives"], p["file_row"]) for p in pairs] == [
            ("q1", "p1", ["n1", "p3", "n2"], 0),
            ("q1", "p2", ["n1", "p3", "n2"], 0),
            (None, "n1", None, 0),  # p3 is a positive of the next row: it is a passage already
            (None, "n2", None, 0),
            ("q2", "p3", ["N1!", "n3"], 1),
            (None, "n3", None, 1),  # N1! has the key of n1
        ]
        assert [p["pair_id"] - (2 << 32) for p in pairs] == list(range(6))
        assert json.loads(pairs[1]["meta"]) == {
            "neg_scores": [0.1, 0.2, 0.3], "pos_score": 0.8, "type": "normal",
        }  # fmt: skip
        # The prompt is of the row's pairs, and of none of its negatives.
        assert [p["instruction"] for p in pairs] == ["do", "do", None, None, None, None]
        assert pairs[2]["meta"] is None
        assert pairs[2]["query_key"] is pairs[2]["pair_key"] is None


def test_a_bad_text_in_a_list_costs_only_itself(tmp_path):
    rows = [
        {"query": "q", "pos": ["p1", " ", 3], "neg": ["", "n", "a\0b"], "neg_scores": [1, 2, 3]},
        {"query": "", "pos": ["p"], "neg": []},
        {"query": "q", "pos": [], "neg": ["n2"]},
        {"query": "q", "pos": "p2", "neg": None},
    ]
    pairs, quarantine = read(write(tmp_path, "a.jsonl", jsonl(*rows)))
    assert [(p["query"], p["positive"], p["negatives"]) for p in pairs] == [
        ("q", "p1", ["n"]), (None, "n", None), (None, "n2", None), ("q", "p2", None),
    ]  # fmt: skip
    assert json.loads(pairs[0]["meta"]) == {"neg_scores": [2]}
    assert reasons(quarantine) == [
        (0, "negative is empty"),
        (0, "negative holds a NUL character"),
        (0, "positive is empty"),
        (0, "positive is a number, not a text"),
        (1, "query is empty"),
        (2, "positive is an empty list"),
    ]
    assert all(orjson.loads(row["raw"]) == rows[row["row"]] for row in quarantine)


def test_negatives_that_would_be_repeated_without_end_are_quarantined(tmp_path):
    rows = [{"query": "q", "pos": ["p"] * 9, "neg": ["n" * 20]}, {"query": "q", "pos": ["p"]}]
    path = write(tmp_path, "a.jsonl", jsonl(*rows))
    pairs, quarantine = read(path, SourceSettings(max_row_bytes=150))
    assert sides(pairs) == [("q", "p")]
    reason = "negatives of every positive are longer than max_row_bytes"
    assert reasons(quarantine) == [(0, reason)]


def test_a_text_that_looks_like_a_list_is_a_text(tmp_path):
    row = {"text1": "[1, 2]", "text2": '["a"]'}
    fields = {"query": "text1", "positive": "text2"}
    for settings in (SourceSettings(), SourceSettings(fields=fields)):
        pairs, _ = read(write(tmp_path, "a.jsonl", jsonl(row)), settings)
        assert sides(pairs) == [("[1, 2]", '["a"]')]
