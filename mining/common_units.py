"""The commonest characters and words, most frequent first: the fixed idf table of ``lexical``.

The order is that of the usual public frequency lists of modern Chinese and English.
"""

from typing import Final

COMMON_CHARACTERS: Final = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年"
    "过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心"
    "她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间"
    "由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给"
    "世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变"
    "四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社"
    "便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北"
    "边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笔"
)
_SIMPLIFIED: Final = (
    "这个们来为国说时会对着过发后里种经么学现当没动还进样开从实军无与长机关点业将两间问并应战头"
    "体见产话给门儿东声员论处义几认条气题尔别变总电数报结务场计资许统区队决马书则听却达强难权设"
    "记类据边张该规万觉术领确传师观让识带导争运笔内"
)
_TRADITIONAL: Final = (
    "這個們來為國說時會對著過發後裡種經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問並應戰頭"
    "體見產話給門兒東聲員論處義幾認條氣題爾別變總電數報結務場計資許統區隊決馬書則聽卻達強難權設"
    "記類據邊張該規萬覺術領確傳師觀讓識帶導爭運筆內"
)
# A traditional form has the rank of its simplified one: texts are not converted here.
TRADITIONAL: Final = dict(zip(_SIMPLIFIED, _TRADITIONAL, strict=True))
COMMON_WORDS: Final = (
    "the", "of", "and", "to", "a", "in", "is", "it", "you", "that", "he", "was", "for", "on",
    "are", "with", "as", "i", "his", "they", "be", "at", "one", "have", "this", "from", "or",
    "had", "by", "not", "but", "what", "some", "we", "can", "out", "other", "were", "all",
    "there", "when", "up", "use", "your", "how", "said", "an", "each", "she", "which", "do",
    "their", "if", "will", "way", "about", "many", "then", "them", "would", "like", "so", "these",
    "her", "him", "has", "more", "could", "no", "than", "been", "its", "who", "now", "did", "my",
    "over", "into", "only", "also", "me", "our", "any", "such", "very",
)  # fmt: skip
