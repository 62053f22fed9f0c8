"""Extraction: what is taken from a page, in which encoding, and what is left out."""

import io
import json

import pytest

from curation.extraction.encodings import decode_page
from curation.extraction.errors import PageError
from curation.extraction.pages import Page, decompressed, read_archive
from curation.extraction.pairs import extract_page, html_pairs, markdown_pairs
from curation.extraction.sandbox import Sandbox
from curation.extraction.settings import PageSettings
from tests.web_pages import ARTICLE, CONTENT, FIRST, SECOND, page, warc

SETTINGS = PageSettings()


def pairs(text, **settings):
    found = html_pairs(text, PageSettings(**settings))
    return [(pair.kind, pair.query, pair.positive) for pair in found]


def content(body):
    (found,) = pairs(page(body), kinds=("title-content",))
    return found[2]


def archive(data, max_page_bytes=1 << 20):
    compression = "gzip" if data.startswith(b"\x1f") else None
    return list(read_archive(decompressed(io.BytesIO(data), compression), max_page_bytes))


def test_an_article_gives_its_title_and_content_without_what_stands_around_them():
    assert pairs(page()) == [("title-content", "第一条地铁开通", CONTENT)]


@pytest.mark.parametrize("encoding", ["gb18030", "big5hkscs", "utf-16", "utf-8-sig"])
def test_an_encoding_that_nobody_declares_is_found(encoding):
    text = page(
        "<p>這個時候，他們說要開會，大家都來了。</p>" if encoding == "big5hkscs" else ARTICLE
    )
    text = text.replace("第一条地铁开通_新闻频道_某报网", "") if encoding == "big5hkscs" else text
    assert decode_page(text.encode(encoding))[0] == text


@pytest.mark.parametrize(
    ("encoding", "declared", "meta"),
    [
        ("gb18030", "gb2312", ""),  # rare characters are beyond what is declared
        ("gb18030", "", "<meta charset=gbk>"),
        ("gb18030", "iso-8859-1", '<meta http-equiv=x content="text/html; charset=gb2312">'),
        ("gb18030", "utf-8", "<meta charset='utf-8'>"),  # wrong
        ("utf-8", "gb2312", "<meta charset=gb2312>"),  # wrong
        ("gb18030", "no-such-charset", "<meta charset=base64>"),
    ],
)
def test_declarations_are_believed_as_far_as_the_bytes_bear_them_out(encoding, declared, meta):
    text = page(ARTICLE + "<p>朱镕基、㑇、𠮷</p>", head=meta)
    assert decode_page(text.encode(encoding), declared) == (text, encoding)


def test_a_declared_big5_page_is_read_with_the_characters_of_hong_kong():
    text = page("<p>這間嘅電腦係佢哋嘅，你喺邊度？</p>", title="")
    assert decode_page(text.encode("big5hkscs"), "big5") == (text, "big5hkscs")


def test_a_big5_page_that_says_it_is_gb2312_is_not_believed():
    said = "<p>這個時候，他們說要開會，大家都來了，我們也在這裡等著，還沒有開始。</p>"
    text = page(said * 3, title="")
    data = text.encode("big5")
    assert data.decode("gb18030", "replace").count("\ufffd") < 3
    assert decode_page(data, "gb2312") == (text, "big5hkscs")


def test_a_character_cut_at_the_end_or_a_broken_byte_does_not_refuse_a_page():
    data = page().encode("gb18030")
    assert FIRST in decode_page(data[: data.index("王小明".encode("gb18030")) + 1])[0]
    broken = data.replace(b"<p>", b"<p>\xff\xff", 1)
    assert FIRST in decode_page(broken, "gb2312")[0]


def test_a_western_page_is_read_as_one():
    data = "<html><p>Un café à la crème, très bon.</p></html>".encode("cp1252")
    assert decode_page(data, "iso-8859-1") == (data.decode("cp1252"), "cp1252")


def test_bytes_in_no_encoding_are_refused():
    noise = bytes((7 * i * i + 131) % 256 for i in range(4000))
    with pytest.raises(PageError, match=r"no encoding fits its bytes \(declared: gb18030\)"):
        decode_page(noise, "gbk")


def test_broken_html_is_read_as_browsers_do():
    body = f"<div><p>{FIRST}<p>{SECOND}</div></table></b><script>var x = '<p>'"
    assert content(body) == CONTENT
    assert pairs("\0" + page()) == pairs(page())


def test_scripts_hidden_elements_and_forms_are_no_text():
    extra = (
        "<script>var 一二三四五六七八九十, 甲;</script><style>p {}</style>"
        '<div style="display: none">看不见的一段话，谁也看不见它。</div>'
        "<p hidden>也看不见，谁也看不见它的。</p><select><option>选项一，选项二，选项三</select>"
    )
    assert content(f"<div><p>{FIRST}</p>{extra}<p>{SECOND}</p></div>") == CONTENT


def test_line_breaks_make_lines_and_short_rows_of_a_table_one_line_each():
    table = "<table><tr><td>站名<td>首班<td>末班</tr><tr><td>东站<td>六点<td>十点</tr></table>"
    text = content(f"<div>{FIRST}<br>{SECOND}{table}</div>")
    assert text == f"{CONTENT}\n站名 | 首班 | 末班\n东站 | 六点 | 十点"


def test_words_that_inline_tags_hold_stay_together():
    linked = f"<b>{FIRST[5:9]}</b><a href=x>{FIRST[9:12]}</a>"
    body = f"<p>{FIRST[:5]}{linked}{FIRST[12:]}</p><p>{SECOND}</p>"
    assert content(f"<div>{body}</div>") == CONTENT
    english = "<p>It is <i>very</i>\n<b>good</b>, isn't it? Yes, it is; we all say so, loudly.</p>"
    assert content(english).startswith("It is very good, isn't it?")


def test_content_that_calls_itself_comments_stays_where_the_page_has_little_else():
    posts = "".join(f'<div class="comment">{i}楼：{FIRST}</div>' for i in range(5))
    text = content(f'<div class="comment-list">{posts}</div><div class="footer">版权，所有</div>')
    assert text.count(FIRST) == 5
    assert "版权" not in text


def test_a_page_nested_without_end_is_no_crash():
    deep = page("<div>" * 5_000 + FIRST + "</div>" * 5_000 + f"<p>{FIRST}</p><p>{SECOND}</p>")
    assert extract_page("html", deep.encode(), "", SETTINGS).reason in ("", "has no main content")


@pytest.mark.parametrize(
    ("title", "h1", "found"),
    [
        ("今天的天气_新闻_某网", "", "今天的天气"),
        ("今天的天气真好啊真好-某网", "", "今天的天气真好啊真好"),
        ("COVID-19 疫情的最新通报", "", "COVID-19 疫情的最新通报"),
        (
            "某网 | 今天的天气真好，大家都出门了",
            "今天的天气真好，大家都出门了",
            "今天的天气真好，大家都出门了",
        ),
        ("How it works - A Site", "How it works", "How it works"),
        ("今天的天气真的非常好_某网", "某网", "今天的天气真的非常好"),
        ("", "只有标题行", "只有标题行"),
    ],
)
def test_the_title_is_cut_at_the_name_of_the_site(title, h1, found):
    text = page(f"<h1>{h1}</h1><div><p>{FIRST}</p><p>{SECOND}</p></div>", title)
    assert pairs(text)[0][1] == found


def test_headings_give_sections_with_the_headings_above_them():
    body = (
        f"<h1>地铁</h1><h2>一、票价</h2><p>{FIRST}</p><h3>优惠</h3><p>{SECOND}</p><h2>二、空</h2>"
    )
    body += f"<p><strong>三、线路图</strong></p><p>{FIRST}</p>"
    found = html_pairs(page(f"<div>{body}</div>", "地铁"), SETTINGS)
    assert [(pair.kind, pair.query, pair.positive) for pair in found[1:]] == [
        ("heading-section", "一、票价", FIRST),
        ("heading-section", "优惠", SECOND),
        ("heading-section", "三、线路图", FIRST),
    ]
    assert found[2].about == {"heading_path": ["地铁", "一、票价"]}


def test_json_ld_gives_every_answer_of_faq_and_forum_once():
    asked = {"@type": "Question", "name": "怎么买票？"}
    asked["acceptedAnswer"] = {"@type": "Answer", "text": "<p>在<b>车站</b>买。</p>"}
    asked["suggestedAnswer"] = [{"text": "手机上买 &amp; 扫码。"}, {"text": ""}]
    faq = {"@context": "https://schema.org", "@type": "FAQPage", "mainEntity": [asked, asked]}
    graph = {"@graph": [{"@type": ["QAPage"], "mainEntity": {**asked, "name": "在哪买？"}}]}
    scripts = "".join(
        f'<script type="application/ld+json">{text}</script>'
        for text in (json.dumps(faq), "{broken", json.dumps(graph))
    )
    found = html_pairs(page("", head=scripts), SETTINGS)
    assert [(pair.query, pair.positive, pair.about["role"]) for pair in found] == [
        ("怎么买票？", "在车站买。", "acceptedAnswer"),
        ("怎么买票？", "手机上买 & 扫码。", "suggestedAnswer"),
        ("在哪买？", "在车站买。", "acceptedAnswer"),
        ("在哪买？", "手机上买 & 扫码。", "suggestedAnswer"),
    ]


def test_microdata_gives_answers_with_the_properties_of_their_own_item():
    body = """<div itemscope itemtype="https://schema.org/QAPage">
    <div itemprop="mainEntity" itemscope itemtype="https://schema.org/Question">
    <div itemprop="acceptedAnswer" itemscope itemtype="https://schema.org/Answer">
    <span itemprop="name">答一</span><div itemprop="text">先学指法。</div></div>
    <h1 itemprop="name">怎么学钢琴？</h1></div></div>"""
    found = pairs(page(body), kinds=("question-answer",))
    assert found == [("question-answer", "怎么学钢琴？", "先学指法。")]


def test_markdown_gives_title_sections_and_code_without_its_marks():
    text = (
        "---\ntitle: 安装说明\n---\n# 安装说明\n先看[文档](http://x)和`命令`，再装，按下面的步骤一步一步地做，不要着急。\n"
        "\n## 步骤\n- **下载**安装包，打开它，点确定。\n- 重启。\n```sh\n# no heading\nrun\n```\n"
        "\n其他\n---\n<!-- 注 -->没有了，到这里就全部结束了，谢谢大家阅读。\n"
    )
    found = [(pair.query, pair.positive) for pair in markdown_pairs(text, SETTINGS)]
    steps = "下载安装包，打开它，点确定。\n重启。\n# no heading\nrun"
    end = "没有了，到这里就全部结束了，谢谢大家阅读。"
    intro = "先看文档和命令，再装，按下面的步骤一步一步地做，不要着急。"
    assert found == [
        ("安装说明", "\n".join((intro, "步骤", steps, "其他", end))),
        ("步骤", steps),
        ("其他", end),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (page("<p>短。</p>"), "has no main content"),
        (
            page("<p>一句话，十二个字以上才算。</p>"),
            "its content is shorter than min_content_chars",
        ),
        (page(f"<div><p>{FIRST}</p><p>{SECOND}</p></div>", ""), "has no title"),
    ],
)
def test_a_page_without_pairs_says_why(text, reason):
    assert extract_page("html", text.encode(), "", SETTINGS).reason == reason


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"found 'faq'; allowed are title-content, "):
        PageSettings(kinds=("faq",))
    with pytest.raises(ValueError, match="page_cpu_s is 0; it must be more than 0"):
        PageSettings(page_cpu_s=0)
    with pytest.raises(ValueError, match="unknown setting of pages 'cpu'; allowed: kinds, "):
        PageSettings.from_document({"cpu": 1})


def test_a_page_that_takes_too_long_or_kills_the_process_costs_only_itself():
    endless = page("<p>一" * 400_000).encode()
    good = Page(1, "html", page().encode())
    with Sandbox(PageSettings(page_cpu_s=0.4)) as sandbox:
        assert sandbox.extract(good).pairs
        slow = sandbox.extract(Page(0, "html", endless))
        assert slow.reason == "extraction took more processor time than page_cpu_s"
        assert sandbox.extract(good).pairs
        sandbox._process.kill()
        assert sandbox.extract(good).reason == "extraction crashed (SIGKILL)"
        assert sandbox.extract(good).pairs == extract_page("html", good.data, "", SETTINGS).pairs


def test_a_page_that_takes_too_much_memory_costs_only_itself():
    big = Page(0, "html", page("<p>一" * 1_500_000).encode())
    with Sandbox(PageSettings(page_memory_mib=400, page_cpu_s=60)) as sandbox:
        assert sandbox.extract(big).reason  # which one depends on who asked for the memory last
        assert sandbox.extract(Page(1, "html", page().encode())).pairs


def test_an_archive_yields_its_responses_and_says_why_others_are_no_pages():
    data = warc(
        ("http://a.cn/1", page().encode("gb18030"), "text/html; charset=GBK"),
        ("http://a.cn/logo.png", b"\x89PNG", "image/png"),
        ("http://a.cn/gone", b"<html>404</html>", "text/html", "404 Not Found"),
        ("http://a.cn/empty", b" "),
        ("http://a.cn/long", b"<html>" + b"x" * 9000),
        ("http://a.cn/plain", b"<!DOCTYPE html><p>x", "text/plain"),
    )
    found = archive(data, max_page_bytes=9000)
    first = found[0]
    assert (first.url, first.crawl_date, first.charset) == (
        "http://a.cn/1", "2024-03-01T08:00:00Z", "GBK",
    )  # fmt: skip
    assert [(one.row, one.reason) for one in found] == [
        (0, ""),
        (1, "is image/png, not HTML"),
        (2, "HTTP status 404"),
        (3, "is empty"),
        (4, "page is longer than max_page_bytes"),
        (5, ""),
    ]
    assert archive(warc(("http://a.cn/1", b"x"), kind="request")) == []


@pytest.mark.parametrize("cut", [1, 9, 300, 10_000])
def test_an_archive_cut_anywhere_in_its_last_record_says_so(cut):
    records = [("http://a.cn/1", page().encode()), ("http://a.cn/2", b"<html>" + b"x" * 9_700)]
    data = warc(*records, gzip=False)
    found = archive(data[:-cut] if cut > 1 else data)
    damaged = [one for one in found if one.reason.startswith("the archive is damaged from here on")]
    assert (found[0].url, len(damaged)) == ("http://a.cn/1", 0 if cut == 1 else 1)
    start = data.rindex(b"WARC/1")
    assert archive(data[: start + 20])[-1].reason.endswith("(it ends within a record)")


def test_a_cut_archive_yields_what_came_before_and_says_where_it_ends():
    data = warc(("http://a.cn/1", page().encode()), ("http://a.cn/2", page().encode()), gzip=False)
    found = archive(data[:-300])
    assert [one.url for one in found] == ["http://a.cn/1", ""]
    assert found[1].reason == "the archive is damaged from here on (a record ends early)"
