"""Which part of a page is its content: prose is followed down the tree, boilerplate is left out.

Prose are the characters of running text outside of links. From the body the way leads to the child
that holds most of the prose, for as long as what stands beside it is mostly no prose. Elements that
call themselves comments, navigation and the like are left out first, unless the page has little
else.
"""

import re
from typing import Final

from curation.extraction.blocks import Block, Container

# An element that holds more of the prose than this is content whatever it calls itself.
CONTENT_SHARE: Final = 0.4
# These words leave little doubt: only what holds nearly all of the prose means something else.
SURE: Final = frozenset(("footer", "nav", "copyright", "cookie", "cookies", "consent", "navbar"))
SURE_SHARE: Final = 0.9
# The way down goes on to a child with this share of the prose.
DOWN_SHARE: Final = 0.5
# What is left beside the child must be mostly no prose, or little.
BESIDE_PROSE: Final = 0.5
BESIDE_SHARE: Final = 0.08
BOILERPLATE_TAGS: Final = frozenset(("nav", "footer", "aside", "menu"))
BOILERPLATE: Final = re.compile(
    r"(?:^|[\s_\-]|post|article|js|news)(?:comments?|cmt|discuss|reply|replies|pinglun|sidebar|"
    r"side|rightbar|aside|footer|foot|bottom|copyright|copy|nav|navbar|navigation|menu|"
    r"breadcrumbs?|crumbs?|related?|relate|relevant|recommend|recommends|recommended|tuijian|"
    r"xiangguan|hot|rank|ranking|share|sharing|social|ads?|advert|advertisement|banner|promo|"
    r"sponsor|popup|modal|login|signup|register|tags?|taglist|keywords|pager|pagination|paging|"
    r"page-?turn|cookies?|consent|subscribe|newsletter|toolbar|tools?|declare|statement|"
    r"disclaimer|qrcode|ewm|editor|author-?(?:info|card|bio)|more|guess|like|next|prev|"
    r"complementary|contentinfo)(?=$|[\s_\-\d])"
)
_LABEL_LINE: Final = re.compile(
    r"^[\s（(【\[]*(?:本文|文章|稿件|信息|图片|视频)?(?:来源|来自|原标题|标题|责任编辑|责编|编辑|作者|记者|校对|"
    r"审核|监制|发布|更新|时间|日期|浏览|阅读|点击|字号|字体|分享|收藏|打印|举报|关键词|"
    r"标签|上一篇|下一篇|相关|推荐|版权|转载|免责|特别声明|声明|您所在|您的位置|当前位置|首页\s*[>»]|"
    r"Share|Tags?|Posted|Filed under)[^。！？]*$",
    re.IGNORECASE,
)
_DATE: Final = re.compile(r"\d{4}\s*[-/年.]\s*\d{1,2}\s*[-/月.]\s*\d{1,2}|\d{1,2}:\d{2}")
_DISCLAIMER: Final = re.compile(
    r"^[\s【\[（(*]*(?:免责|特别|郑重|版权|重要)?(?:声明|提示)[\s】\]：:]"
)
EDGE_MAX_CHARS: Final = 60


def find_content(body: Container, title: str = "") -> list[Block]:
    """Return the blocks of a page's content, headings included; empty where there is no prose.

    The title at the head of the content is left out.
    """
    _leave_out(body, body.prose, frozenset())
    body.measure()
    if not body.prose:
        return []
    blocks = [block for block in _descend(body).blocks() if not block.is_link]
    return _without_bare_headings(_trim(blocks, title))


def _leave_out(node: Container, prose: int, forgiven: frozenset[str]) -> None:
    """Drop the parts that say they are no content; ``prose`` is the whole page's."""
    kept: list[Container | Block] = []
    for part in node.parts:
        if isinstance(part, Block):
            kept.append(part)
            continue
        words = boilerplate_words(part)
        share = SURE_SHARE if words & SURE else CONTENT_SHARE
        if not words <= forgiven and part.prose <= share * prose:
            continue
        _leave_out(part, prose, forgiven | words)
        if part.parts:
            kept.append(part)
    node.parts = kept


def boilerplate_words(part: Container) -> frozenset[str]:
    """List the words by which an element says that it is no content."""
    words = {word.strip(" _-") for word in BOILERPLATE.findall(part.hint)}
    if part.tag in BOILERPLATE_TAGS:
        words.add(part.tag)
    return frozenset(words)


def _descend(node: Container) -> Container:
    while True:
        inner = [part for part in node.parts if isinstance(part, Container)]
        best = max(inner, key=lambda part: part.prose, default=None)
        if best is None or best.prose < DOWN_SHARE * node.prose or _is_leaf(best):
            return node
        beside, chars = node.prose - best.prose, node.chars - best.chars
        peers = any(
            part is not best and part.prose and (part.tag, part.hint) == (best.tag, best.hint)
            for part in inner
        )
        is_little = beside <= BESIDE_SHARE * node.prose
        if not is_little and (peers or beside > BESIDE_PROSE * chars):
            return node
        node = best


def _is_leaf(node: Container) -> bool:
    """Say whether an element is one paragraph: its neighbors may be the others."""
    return len(node.blocks()) == 1


def _trim(blocks: list[Block], title: str) -> list[Block]:
    """Cut the title and labels such as source, date and editor off both ends."""
    first, end = 0, len(blocks)
    while first < end and (_is_edge(blocks[first]) or blocks[first].text == title):
        first += 1
    while end > first and (blocks[end - 1].level or _is_edge(blocks[end - 1])):
        end -= 1
    return blocks[first:end]


def _is_edge(block: Block) -> bool:
    text = block.text
    if _DISCLAIMER.match(text):
        return True
    if block.level or len(text) > EDGE_MAX_CHARS:
        return False
    return _LABEL_LINE.match(text) is not None or _DATE.search(text) is not None or len(text) < 4


def _without_bare_headings(blocks: list[Block]) -> list[Block]:
    """Leave out headings under which nothing stands: the link lists below them are gone."""
    kept: list[Block] = []
    for block in blocks:
        while kept and block.level and kept[-1].level >= block.level:
            kept.pop()
        kept.append(block)
    return kept
