"""Small web pages and archives of them, written out by the tests that read them."""

import io

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

FIRST = "昨天下午，市里开通了第一条地铁，首日有三万名乘客，车站里排起了长队。"
SECOND = "地铁公司说，票价从两元起，老人和学生半价；今后三年还要再修两条线。"
ARTICLE = f"""
<div class="nav"><a href="/">首页</a> <a href="/news">新闻频道</a></div>
<div class="wrap"><h1>第一条地铁开通</h1>
<div class="info">2024-03-01 08:30 来源：晚报</div>
<div class="article-body"><p>{FIRST}</p><p>{SECOND}</p>
<p>（责任编辑：王小明）</p></div>
<ul class="related"><li><a href="/1">相关新闻一，很长的一个标题</a></li></ul>
<div id="comment-list"><p>网友甲说：太好了，终于等到了，以后上班方便多了！</p></div></div>
<div class="footer">版权所有，未经许可，不得转载。某报社，地址在某某路，电话一二三。</div>
"""
CONTENT = f"{FIRST}\n{SECOND}"


def page(body=ARTICLE, title="第一条地铁开通_新闻频道_某报网", head=""):
    return (
        f"<!DOCTYPE html><html><head><title>{title}</title>{head}</head><body>{body}</body></html>"
    )


def warc(*records, gzip=True, kind="response"):
    """Write an archive; a record is (url, body, content type, status), the last two optional."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gzip)
    for url, body, *rest in records:
        content_type, status = (*rest, *("text/html", "200 OK")[len(rest) :])
        headers = StatusAndHeaders(status, [("Content-Type", content_type)], protocol="HTTP/1.1")
        record = writer.create_warc_record(
            url, kind, payload=io.BytesIO(body), http_headers=headers,
            warc_headers_dict={"WARC-Date": "2024-03-01T08:00:00Z"},
        )  # fmt: skip
        writer.write_record(record)
    return out.getvalue()
