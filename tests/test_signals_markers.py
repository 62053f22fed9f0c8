import pyarrow as pa
import pytest

from curation.signals.batch import PairBatch
from curation.signals.markers import _COMPILED, MARKERS, markers
from curation.signals.settings import SignalSettings


def marks(text: str) -> dict[str, int]:
    """Count the marks of a passage; what is 0 is left out."""
    rows = pa.table({"pair_id": [1], "positive": [text]})
    found = markers(PairBatch(rows), "passage", SignalSettings())
    assert {*found} == {measure.name for measure in MARKERS.measures}
    return {name: int(column[0]) for name, column in found.items() if column[0]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("见 http://a.cn/x 和https://b.com", {"urls": 2}),
        ("FTP://files.example，www.example.com，WWW.b.cn", {"urls": 3}),
        ("http://www.example.com/www.html", {"urls": 1}),
        ("http:// 和 p// 和 awww.x 和 www. 和 x://y", {}),
        ("写信到 Some.One+x@mail.example.com。", {"emails": 1}),
        ("@某人 //@别人:转发 a@b", {}),
        ("电话13812345678，或 +86 138-1234-5678", {"phones": 2}),
        ("请拨 010-12345678、(0755) 1234567、400-820-8820", {"phones": 3}),
        ("单号 2013812345678901、0.13812345678、12812345678", {}),
        ("电话１３８１２３４５６７８，QQ：１２３４５６７", {"phones": 1, "qq_ids": 1}),
        ("共 2023-01-02 12:30:45，1234567890 元", {}),
        ("QQ群：123456789，加qq 12345", {"qq_ids": 2}),
        ("扣扣号码 87654321", {"qq_ids": 1}),
        ("QQ 音乐 2023", {}),
        ("微信号：abc_12345，VX: hello2024，加V：abcdef", {"wechat_ids": 3}),
        ("微信公众号是lodetest1", {"wechat_ids": 1}),
        ("微信 Android 版和 WeChat windows 版", {}),
        ("<p class=\"a\">好</p><br/><!-- 注 -->", {"html_tags": 4}),
        ("vector<int> a < b, <T> </foo>", {}),
        ("a&nbsp;b &lt;c&gt; &#8220;d&#x201d;", {"html_entities": 5}),
        ("AT&T; p = &num; &amp", {}),
        ("锟斤拷锟斤拷 烫烫烫 锛", {"mojibake": 4}),
        ("Ã©tÃ© ï¼Œ ä¸\xadæ–‡ ðŸ˜€", {"mojibake": 6}),
        ("CAFÉ» été Â Ã。 ä¸ é wǒ tuì……", {}),
        ("â€œâ€¦", {"mojibake": 2}),  # “…
        ("flic.example/5563/14853747084_e14 a-c172-4428-9112-60 +18666390588", {}),
        ("x5qq221030", {}),
        ("", {}),
        ("@", {}),
        ("<", {}),
        ("www.", {}),
        ("微", {}),
        ("ï¼", {}),
    ],
)  # fmt: skip
def test_marks_of_written_out_texts(text: str, expected: dict[str, int]) -> None:
    assert marks(text) == expected
    assert marks(f"前{text}后") == expected  # not because it ends the text


def test_nothing_that_an_expression_finds_is_missed_by_its_trigger() -> None:
    examples = {
        "emails": "a@b.cn x-@y.com",
        "phones": "(010)12345678 800-1234-567 8613812345678",
        "qq_ids": "企鹅_12345 扣扣：98765432 QQ12345",
        "wechat_ids": "薇信：a12345 威信号b123456 v信:c123456 加微：d123456 wx:e12345 "
        "weixin:f12345 wechat_id：g123456 VX：h123456",
        "html_tags": "<A> </a> <!--",
        "html_entities": "&nbsp; &#160; &#xA0;",
    }
    assert {*examples} == {*_COMPILED}
    for name, text in examples.items():
        for piece in text.split(" "):
            one = piece.replace("_", " ")
            assert _COMPILED[name][1].findall(one)
            assert marks(one)[name] == 1, one


def test_a_hostile_text_takes_no_quadratic_time() -> None:
    hostile = "a" * 50_000 + "@" + "<a " * 20_000 + "1 " * 20_000 + "&#" * 20_000 + "微信" * 5_000
    assert marks(hostile) == {}
