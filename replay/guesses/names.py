"""Words by which the columns of logs are named, in several languages. A name is a hint; the values decide."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["Hint", "hint", "says", "tokens"]

Hint = float
"""0: the name says nothing; 1: it says the role plainly."""

_STRONG: dict[str, str] = {
    "user": "user users uid userid usr customer cust visitor member account buyer shopper reader viewer consumer person usuario "
    "cliente utilisateur client visiteur lecteur acheteur visitante visitatore lettore leitor comprador nutzer benutzer kunde kunden besucher leser utente gebruiker bruger anvandare kayttaja uzytkownik "
    "utilizador polzovatel kullanici yonghu huiyuan guke 用户 会员 顾客 pengguna riyousha yuuza yuza kokyaku ユーザー 利用者 会員 顧客",
    "item": "item items iid itemid product prod sku article articles doc document docid creative adid content video movie song track news "
    "listing offer asin goods producto articulo anuncio produit annonce produkt artikel anzeige werbemittel prodotto articolo produto "
    "artigo shangpin wupin guanggao neirong xinwen 商品 物品 广告 内容 tovar urun shown inview shouhin shohin 商品 記事 広告id",
    "time": "time ts timestamp datetime date hour when moment fecha hora tiempo momento zeit zeitpunkt zeitstempel datum uhrzeit heure "
    "temps horodatage ora tijd tijdstip tidspunkt tid shijian riqi shijianchuo 时间 日期 时间戳 dt vremya czas tarih waktu logged jikoku nichiji hiduke hizuke 日時 時刻 日付",
    "click": "click clicked clicks clk isclick clic clics clico cliqueado clicado klick klicks geklickt angeklickt clique cliccato "
    "geklikt klik kliks klikket dianji dianjishu 点击 label clicou pinchado tiklama opened tapped kurikku クリック",
    "views": "view views viewed impression impressions impr imps shown exposure exposures vista vistas impresion impresiones aufrufe "
    "einblendung einblendungen vue vues affichages visualizzazioni visualizacoes weergaven visninger baoguang zhanxian 曝光 展现 hyouji hyoji 表示 "
    "displays pv shows inview",
    "list": "request req requestid slate impression imp pageview query auction search anfrage solicitud requete richiesta qingqiu 请求 "
    "list liste lista",
    "event": "event eventid id log logid row rowid uuid record ereignis evento",
    "stream": "domain stream slot placement source channel kind type tipo typ canal herkunft quelle bereich leixing qudao 类型 渠道 "
    "section surface inventory",
    "ad": "ad ads advert adverts advertisement advertising sponsored sponsor promoted promo paid commercial cpc anuncio anuncios "
    "publicidad patrocinado werbung anzeige anzeigen gesponsert publicite sponsorise annonce pubblicita sponsorizzato reklame reklama "
    "advertentie guanggao 广告 display isad werbeanzeige pub koukoku kokoku 広告",
    "natural": "natural organic organico organisch organique naturel content editorial redaktionell recommendation recommended reco "
    "search feed feeds news home unpaid ziran 自然 naturlich",
}
_WEAK: dict[str, str] = {
    "user": "cookie ip idfa gaid maid oaid anonymous anon",
    "item": "campaign adgroup banner target",
    "time": "at day created data giorno dia jour tag",
    "click": "target y outcome action response conversion converted",
    "list": "session page",
    "event": "key",
}
_AFTER: dict[str, str] = {
    "spent with the item": "dwell readtime reading watch watched watchtime playtime verweildauer lesezeit permanencia lecture "
    "tingliu 停留 taizai 滞在 scroll scrolled bounce landing engagement",
    "done after the click": "purchase purchased purchases buy bought order ordered orders cart basket checkout conversion conversions "
    "converted cvr revenue sale sales gmv like liked likes share shared comment commented follow followed favorite favourite bookmark "
    "hate gekauft kauf bestellung warenkorb umsatz compra comprado pedido carrito achat panier acquisto goumai xiadan jiagou shoucang "
    "购买 下单 收藏 kounyuu chuumon 購入 注文 install installed signup rating rated feedback postclick cpo attribution",
    "the next event": "next following",
}
_OTHER_TIME = (
    "birth born geburt expiry expires expiration updated modified registered registration signup joined published publish release "
    "released launch nacimiento caducidad publicado erscheinung"
)
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def tokens(name: str) -> list[str]:
    """The words of a name in lower case, without accents.

    >>> tokens("userId"), tokens("Fecha_Clic"), tokens("user.ID"), tokens("isClickedAD")
    (['user', 'id'], ['fecha', 'clic'], ['user', 'id'], ['is', 'clicked', 'ad'])
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return [part.lower() for part in _SPLIT.findall(plain)]


_GENERIC = frozenset(
    ["id", "ids", "uid", "key", "name", "type", "value", "ts", "time", "at", "n", "nr", "no"]
)


def _parts(name: str) -> list[str]:
    """The words that count: of a path those of its last part, with the part before it if they are general."""
    *before, last = name.split(".")
    parts = tokens(last)
    return tokens(before[-1]) + parts if before and set(parts) <= _GENERIC else parts


def _matches(parts: list[str], words: frozenset[str]) -> bool:
    joined = "".join(parts)
    if joined in words or any(p in words or (p.endswith("s") and p[:-1] in words) for p in parts):
        return True
    # Compounds: Nutzerkennung, yonghuid; characters without spaces between words.
    long = [w for w in words if len(w) >= 5 or not w.isascii()]
    return any(w in part for part in (*parts, joined) for w in long if part != w)


_SETS = {role: frozenset(text.split()) for role, text in _STRONG.items()}
_WEAK_SETS = {role: frozenset(text.split()) for role, text in _WEAK.items()}
_AFTER_SETS = {why: frozenset(text.split()) for why, text in _AFTER.items()}
_OTHER_TIMES = frozenset(_OTHER_TIME.split())


def hint(role: str, name: str) -> Hint:
    """How plainly a name says a role: 1, 0.5 or 0.

    >>> hint("user", "Nutzerkennung"), hint("user", "device_ip"), hint("user", "price")
    (1.0, 0.5, 0.0)
    """
    parts = _parts(name)
    if role == "user" and "device" in parts and {"id", "uid"} & set(parts):
        return 0.5
    if role == "item" and {"ad", "ads", "adv"} & set(parts) and {"id", "key", "nr"} & set(parts):
        return 1.0
    if _matches(parts, _SETS.get(role, frozenset())):
        return 1.0
    return 0.5 if _matches(parts, _WEAK_SETS.get(role, frozenset())) else 0.0


def says(what: str, name: str) -> str | None:
    """What a name says that is known only later (``what`` "after"), or that it is a time of something else ("other time")."""
    parts = _parts(name)
    if what == "other time":
        return "the time of something else" if _matches(parts, _OTHER_TIMES) else None
    for why, words in _AFTER_SETS.items():
        if _matches(parts, words):
            return why
    whole = set(parts)
    if whole & {"read", "play", "view", "lese", "stay"} and whole & {
        "time",
        "duration",
        "seconds",
        "ms",
        "sec",
        "s",
        "dauer",
        "zeit",
    }:
        return "spent with the item"
    if hint("click", name) == 1.0 and (hint("time", name) or whole & {"pos", "nb", "id", "at"}):
        return "of the click"
    return None
