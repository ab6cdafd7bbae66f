"""Texts in which personal data, copies and languages are known: what `filters.py` measures by.

Everything is made up here from a seed. Cards, IBANs and addresses have valid check digits and lie
in ranges that are meant for examples where there are such ranges.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import string
from collections.abc import Callable, Sequence

from interact_jax.prepare.filters.numbers import IBAN_LENGTH
from interact_jax.schema import Conversation, Message

# ------------------------------------------------------------------------------- personal data

SENTENCES = {
    "en": (
        "You can reach me at {} after lunch.",
        "Please fix this mail: 'Dear Sir, my details are {}, best wishes, Tom'.",
        "I wrote {} into the form, and nothing happened.",
        "Here it is: {}",
        "why does it print {} twice?",
        "({}) is what they sent us, is that right?",
    ),
    "de": (
        "Ich bin unter {} zu erreichen.",
        "Bitte formuliere das freundlicher: 'Meine Angaben sind {}, Gruß, Jörg'.",
        "Ich habe {} in das Formular geschrieben, nichts passiert.",
        "Hier ist sie: {}",
        "warum steht da zweimal {}?",
        "Man hat uns ({}) geschickt, stimmt das so?",
    ),
    "fr": (
        "Vous pouvez me joindre au {} cet après-midi.",
        "Corrige ce message : « Voici mes coordonnées, {}, cordialement, Zoé ».",
        "J'ai écrit {} dans le formulaire et rien ne se passe.",
        "Le voici : {}",
        "pourquoi affiche-t-il {} deux fois ?",
        "Ils nous ont envoyé ({}), est-ce correct ?",
    ),
    "es": (
        "Puedes localizarme en {} por la tarde.",
        "Corrige este mensaje: «Mis datos son {}, un saludo, Íñigo».",
        "Escribí {} en el formulario y no pasó nada.",
        "Aquí está: {}",
        "¿por qué imprime {} dos veces?",
        "Nos mandaron ({}), ¿es correcto?",
    ),
    "zh": (
        "下午可以通过{}找到我。",
        "请把这封信改得礼貌一些:“我的信息是{},谢谢”。",
        "我在表格里填了{},但是没有反应。",
        "在这里:{}",
        "为什么{}出现了两次?",
        "他们发来了({}),对吗?",
    ),
}
LANGUAGES = tuple(SENTENCES)
WORDS = {
    "en": ("my phone number {}", "Tel. {}", "call {}"),
    "de": ("meine Nummer {}", "Tel. {}", "Handy {}"),
    "fr": ("mon numéro {}", "tél. {}", "portable {}"),
    "es": ("mi número {}", "tel. {}", "móvil {}"),
    "zh": ("我的手机{}", "电话:{}", "微信 {}"),
}


def digits(random_: random.Random, count: int) -> str:
    return "".join(random_.choices(string.digits, k=count))


def fill(random_: random.Random, layout: str) -> str:
    """A layout with a digit in place of each "#", one from 2 to 9 in place of each "N"."""
    kinds = {"#": string.digits, "N": "23456789"}
    return "".join(random_.choice(kinds[c]) if c in kinds else c for c in layout)


PHONES = {
    "en": (
        "(N##) N##-####", "N##-N##-####", "N##.N##.####", "+1 N## N## ####", "+1-N##-N##-####",
        "1-N##-N##-####", "+1N##N######", "020 7### ####", "+44 20 7### ####", "07### ######",
        "+44 7### ######", "+61 4## ### ###",
    ),
    "de": (
        "030 N######", "030/N######", "(030) N######", "+49 30 N######", "+49 (0)30 N######",
        "0049 30 N######", "0151 N#######", "0151N#######", "+49151N#######", "089 N## ## ##",
        "0171-N######", "+43 1 N######", "+41 44 N## ## ##",
    ),
    "fr": (
        "06 ## ## ## ##", "06.##.##.##.##", "06-##-##-##-##", "06########", "+33 6 ## ## ## ##",
        "+336########", "0033 6 ## ## ## ##", "+33 (0)1 ## ## ## ##", "01 ## ## ## ##",
        "+32 2 N## ## ##",
    ),
    "es": (
        "6## ## ## ##", "91 N## ## ##", "+34 6## ### ###", "+34 6## ## ## ##", "0034 91 N## ## ##",
        "+346########", "+52 55 N### ####", "+54 9 11 N### ####", "6##-###-###", "6## ### ###",
    ),
    "zh": (
        "13#########", "138 #### ####", "138-####-####", "+86 138 #### ####", "+86-138-####-####",
        "+8615#########", "010-6#######", "021-6### ####", "0755-8#######", "(010) 6#######",
    ),
}  # fmt: skip


def phone(random_: random.Random, language: str) -> str:
    return fill(random_, random_.choice(PHONES[language]))


def card(random_: random.Random, language: str) -> str:
    start, length = random_.choice(
        [("4", 16), ("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16)]
    )
    body = start + digits(random_, length - len(start) - 1)
    number = body + luhn_digit(body)
    if random_.random() < 0.3:
        return number
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    return random_.choice(" -").join(cut(number, sizes))


def luhn_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (1 + (place % 2 == 0))
        total += value // 10 + value % 10
    return str(-total % 10)


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    places = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


def iban(random_: random.Random, language: str) -> str:
    country = random_.choice(
        {"en": ("GB", "IE"), "de": ("DE", "AT", "CH"), "fr": ("FR", "BE"), "es": ("ES",)}.get(
            language, ("DE", "AE", "NL")
        )
    )
    bank = {"GB": "NWBK", "IE": "AIBK", "NL": "ABNA"}.get(country, "")
    body = bank + digits(random_, int(IBAN_LENGTH[country]) - 4 - len(bank))
    as_number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    whole = f"{country}{98 - as_number % 97:02d}{body}"
    if random_.random() < 0.4:
        return whole
    return " ".join(whole[n : n + 4] for n in range(0, len(whole), 4))


def email(random_: random.Random, language: str) -> str:
    name = random_.choice(
        ["ann", "j.doe", "max_m", "li.wei", "garcia+news", "zoe-b", "o'neil", "x"]
    )
    number = random_.choice(["", "", str(random_.randrange(100))])
    host = random_.choice(
        [
            "example.com",
            "mail.example.org",
            "müller-bau.de",
            "uni-lyon.example.fr",
            "qq.com",
            "a.io",
        ]
    )
    whole = f"{name}{number}@{host}"
    return whole.upper() if random_.random() < 0.1 else whole


def ip(random_: random.Random, language: str) -> str:
    if random_.random() < 0.6:
        first = random_.choice([n for n in range(11, 223) if n not in (127, 169, 172, 192)])
        return ".".join(str(n) for n in (first, *(random_.randrange(256) for _ in range(3))))
    groups = [f"{random_.randrange(1, 65536):x}" for _ in range(4)]
    host = f"2001:db8:{groups[0]}"
    return random_.choice(
        [f"{host}::{groups[1]}", f"{host}:0:0:{':'.join(groups[1:])}", f"{host}::"]
    )


LETTERS = string.ascii_letters + string.digits


def key(random_: random.Random, language: str) -> str:
    def some(count: int, among: str = LETTERS) -> str:
        return "".join(random_.choices(among, k=count))

    return random_.choice(
        [
            "AKIA" + some(16, string.ascii_uppercase + "234567"),
            "ghp_" + some(36),
            "github_pat_" + some(22) + "_" + some(59),
            "sk-" + some(48),
            "sk-proj-" + some(40) + "7" + some(20, LETTERS + "-_"),
            "sk-ant-api03-" + some(60) + "3" + some(20, LETTERS + "-_"),
            "xoxb-" + some(12, string.digits) + "-" + some(24),
            "AIza" + some(35, LETTERS + "-_"),
            "hf_" + some(34),
            "glpat-" + some(20),
            "sk_live_" + some(24),
            "eyJ" + some(20) + ".eyJ" + some(60) + "." + some(43, LETTERS + "-_"),
            "-----BEGIN PRIVATE KEY-----\n"
            + some(64)
            + "\n"
            + some(40)
            + "\n-----END PRIVATE KEY-----",
        ]
    )


MAKERS: dict[str, Callable[[random.Random, str], str]] = {
    "e-mail": email,
    "phone": phone,
    "card": card,
    "iban": iban,
    "ip": ip,
    "key": key,
}

ORDERS = {
    "en": ("order {}", "invoice no. {}", "tracking {}", "the id is {}"),
    "de": ("Bestellung {}", "Rechnung Nr. {}", "Auftrag {}", "Kundennummer {}"),
    "fr": ("commande {}", "facture {}", "numéro de dossier {}", "référence {}"),
    "es": ("pedido {}", "factura {}", "número de cliente {}", "referencia {}"),
    "zh": ("订单号{}", "发票编号{}", "快递单号{}", "编号:{}"),
}
VERSIONS = {"en": "version", "de": "Version", "fr": "version", "es": "versión", "zh": "版本"}
MONEY = {
    "en": ("${:,}.99", "{:,} dollars"),
    "de": ("{:_},50 €", "{:_} Euro"),
    "fr": ("{: } €", "{: } euros"),
    "es": ("{:_},00 €", "{:_} euros"),
    "zh": ("¥{:,}", "{}元"),
}
OTHERS: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"{r.randrange(1, 29):02d}.{r.randrange(1, 13):02d}.20{r.randrange(10, 27)} 10:30",
    lambda r: f"20{r.randrange(10, 27)}-0{r.randrange(1, 10)}-{r.randrange(1, 29):02d}T08:15:42Z",
    lambda r: f"20{r.randrange(10, 20)}-20{r.randrange(20, 27)}",
    lambda r: f"978-3-16-{digits(r, 6)}-{digits(r, 1)}",
    lambda r: "ISBN 0-306-40615-2",
    lambda r: "commit " + "".join(r.choices("0123456789abcdef", k=40)),
    lambda r: "".join(r.choices("0123456789abcdef", k=12)),
    lambda r: str(1_600_000_000 + r.randrange(10**8)),
    lambda r: str(1_600_000_000_000 + r.randrange(10**11)),
    lambda r: f"52.{digits(r, 6)}, 13.{digits(r, 6)}",
    lambda r: f"3.{digits(r, 14)}",
    lambda r: f"192.168.{r.randrange(256)}.{r.randrange(256)}",
    lambda r: f"{r.randrange(300, 999)}.{r.randrange(300, 999)}.1.1",
    lambda r: "4000" + digits(r, 11) + str((int(luhn_digit("4000")) + 3) % 10) + "7",
    lambda r: f"DE00 {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 2)}",
    lambda r: r.choice(["@app.route('/x')", "icon@2x.png", "react@18.2.0", "git@github.com:a/b"]),
    lambda r: r.choice(["std::map<a::b>", "p::before", "12:30:45", "00:1b:44:11:3a:b7"]),
    lambda r: r.choice(['api_key = os.environ["KEY"]', "password = input()", "token: str", "sk-a"]),
    lambda r: "-".join("".join(r.choices("0123456789abcdef", k=n)) for n in (8, 4, 4, 4, 12)),
    lambda r: " ".join(str(r.randrange(100)) for _ in range(8)),
    lambda r: f"{r.randrange(10, 99)} {r.randrange(100, 999)} {r.randrange(100, 999)}",
    lambda r: f"{r.randrange(100)}/{r.randrange(100)}/{r.randrange(100)}",
)  # fmt: skip


def harmless(random_: random.Random, language: str) -> str:
    """What looks like personal data, and is none."""
    kind = random_.randrange(10)
    if kind < 3:
        number = digits(random_, random_.choice([8, 9, 10, 11, 12]))
        return random_.choice(ORDERS[language]).format(number)
    if kind == 3:
        numbers = ".".join(str(random_.randrange(30)) for _ in range(random_.choice([3, 4])))
        return f"{VERSIONS[language]} {numbers}"
    if kind == 4:
        amount, form = random_.randrange(10**3, 10**9), random_.choice(MONEY[language])
        if "{: }" in form:
            return form.replace("{: }", f"{amount:,}".replace(",", " "))
        return form.format(amount).replace("_", ".")
    return random_.choice(OTHERS)(random_)


@dataclasses.dataclass(frozen=True)
class Planted:
    """A sentence with what of it, from `start` to `stop`, is of a kind ("" where nothing is)."""

    text: str
    language: str
    kind: str
    start: int = 0
    stop: int = 0


def plant(seed: int, number: int, language: str, kind: str) -> Planted:
    """A sentence with one thing in it: of a kind, or harmless where it is "". One phone number in
    three stands after a word for it."""
    random_ = random.Random(f"{seed} {number} {language} {kind}")
    sentence = random_.choice(SENTENCES[language])
    if not kind:
        return Planted(sentence.format(harmless(random_, language)), language, "")
    thing = MAKERS[kind](random_, language)
    around = "{}"
    if kind == "phone" and random_.random() < 1 / 3:
        around = random_.choice(WORDS[language])
    text = sentence.format(around.format(thing))
    start = text.index(thing)
    return Planted(text, language, kind, start, start + len(thing))


UNSEEN = {  # other formats than above, written down after the patterns
    "e-mail": (
        "<jan.kowalski@poczta.example.pl>", "mailto:info@xn--bcher-kva.example",
        "ann@example.com.br", "tomás.núñez@example.es", "ann(at)example.com",
        "ann AT example DOT com", "a_b-c.d+e@e-x.info", '"john doe"@example.com',
        "ann@[203.0.113.9]", "邮箱:lihua88@163.com;", "john@example.photography",
        "root@srv1.int.example.net",
    ),
    "phone": (
        "+48 601 234 567", "601 234 567", "+90 532 123 45 67", "0532 123 45 67",
        "+7 (912) 345-67-89", "89123456789", "+82 10-1234-5678", "010-1234-5678",
        "+55 11 91234-5678", "(21) 2345-6789", "+39 06 1234 5678", "06 1234 5678",
        "+351 912 345 678", "912 345 678", "+31 6 12345678", "06-12345678", "+971 50 123 4567",
        "+91-98765-43210", "09876543210", "+30 210 1234567", "ext. 4021, 212 555 0134",
        "phone no: 5550134", "Mob. 07700900123", "+1 (212) 555 0134 x12", "tel:+12125550134",
        "+44(0)2079460123", "0041 44 123 45 67", "133 1234 1234", "4008-123-123", "02-2345-6789",
    ),
    "card": (
        "4012888888881881", "4012 8888 8888 1881", "5105-1051-0510-5100", "30569309025904",
        "3530111333300000", "6200000000000005", "card=5555555555554444", "4222 2222 2222 2",
        "CVV 123, 4242.4242.4242.4242", "3714 496353 98431",
    ),
    "iban": (
        "PL61109010140000071219812874", "NL91 ABNA 0417 1643 00",
        "IT60 X054 2811 1010 0000 0123 456", "SE45 5000 0000 0583 9825 7466",
        "BR1800360305000010009795493C1", "IBAN:AT611904300234573201", "no93 8601 1117 947",
        "TR33 0006 1005 1978 6457 8413 26",
    ),
    "ip": (
        "93.184.216.34", "http://93.184.216.34:8080/", "[2001:db8::1]:443", "93.184.216.0/24",
        "2001:0db8:0000:0000:0000:ff00:0042:8329", "::ffff:93.184.216.34", "IP=198.51.100.23;",
        "fd12:3456:789a:1::1",
    ),
    "key": (
        "ASIAY34FZKBOKMUTVV7A", "gho_16C7e42F292c6912E7710c838347Ae178B4a",
        "Token abcdef0123456789abcdef0123",
        "MTIzNDU2Nzg5MDEyMzQ1Njc4.XabcdE.abcdefghijklmnopqrstuvwxyz0",
        "client_secret=9f86d081884c7d659a2f", "mysql -u root -pS3cret!9x",
        "SECRET_KEY = 'django-insecure-8f$k2m!x9'", "passwd=Adm1nAdm1n",
        "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq==",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ", "mot de passe : Soleil2023",
        "contraseña es Madrid1987", "key-3ax6xnjp29jd6fds4gc373sgvjxteol0",
        "nvapi-A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6", "gsk_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6",
        "r8_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8",
    ),
    "": (
        "Apollo 11, 1969-07-20 20:17:40", "1:100000", "x = 3.0e8", "0x1F4A9C2E", "RFC 2822, 5322",
        "17.03.1984", "3/14/2015 9:26", "20190823-142233", "UTC-05:00", "GMT+0100", "1e6 1e7 1e8",
        "page 123-456", "ISBN 9783161484100", "DOI 10.1000/182", "arXiv:2603.12273",
        "10.1145/3292500.3330701", "2,147,483,647", "4.294.967.296", "99 999 999", "1 234 567,89",
        "€1.234.567", "USD 5000000000", "12345678", "1234567890", "98765432109",
        "EAN 5901234123457", "UPC 036000291452", "VIN 1HGCM82633A004352", "part 0034-5567-89",
        "flight LH 2034", "A4 210 x 297 mm", "1920x1080", "24-70 mm", "S/N 4025515373",
        "192.168.0.254/24", "172.16.5.4", "255.255.255.0", "OS 10.15.7.1",
        "Chrome/120.0.6099.130", "rev 3.11.7.2", "2.5.29.17", "a@b", "x@y.z", "@user.name",
        "@media (min-width: 600px)", "A@B.T", "foo::bar::baz", "fe:ed:fa:ce", "12:34:56:78",
        "dead:beef", "HH:MM:SS", "key: value", "token_ids = [1, 2]", "password policy: min8chars",
        "the password is required", "secret = load_secret('db')", "sk_buff_head_init",
        "AKIA is a prefix", "Bearer authentication is", "eyJ is how a JWT begins",
        "bcrypt $2b$12$abc", "0123456789abcdef", "sha256:e3b0c44298fc1c149afbf4c8996fb924",
        "3.141592653589793", "100 200 300 400", "1-800-FLOWERS", "[1, 2, 3, 4, 5, 6, 7, 8]",
        "01 02 03 04", "555", "7 8 9 10 11 12",
    ),
}  # fmt: skip
"""Things of each kind, and harmless ones under "". Nothing but keys was looked at again: of those
that were missed at first (10 of 16), seven were added."""

# -------------------------------------------------------------------------------------- copies

COPIES = ("exact", "case and space", "10 % of words", "20 % of words", "same instruction")
SAME = COPIES[:3]  # those that are to be found
SYLLABLES = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "s", "r", "l")]


class Language:
    """Words with the frequencies of Zipf's law, rank^-1: much in common, as in real texts."""

    def __init__(self, seed: int, words: int = 20_000):
        random_ = random.Random(seed)
        self.words = ["".join(random_.choices(SYLLABLES, k=1 + n % 3)) for n in range(words)]
        total, self.sums = 0.0, []
        for rank in range(1, words + 1):
            total += 1 / (rank + 2)
            self.sums.append(total)

    def text(self, random_: random.Random, words: int) -> str:
        return " ".join(random_.choices(self.words, cum_weights=self.sums, k=words))


def conversation(name: str, texts: Sequence[str], user: str = "") -> Conversation:
    """Texts of user and assistant in turn."""
    roles = ("user", "assistant")
    said = tuple(Message(roles[n % 2], text) for n, text in enumerate(texts))
    return Conversation(name, said, user)


def copied(
    random_: random.Random, language: Language, given: Conversation, kind: str
) -> Conversation:
    """A copy of a conversation of one of the kinds."""
    return conversation(
        f"{given.id}, {kind}",
        [copied_text(random_, language, m.content, kind) for m in given.messages],
    )


def copied_text(random_: random.Random, language: Language, text: str, kind: str) -> str:
    if kind == "exact":
        return text
    words = text.split(" ")
    if kind == "case and space":
        return "  ".join(w.upper() if random_.random() < 0.3 else w for w in words) + "\n"
    if kind == "same instruction":  # half of it
        half = len(words) // 2
        return " ".join([*words[:half], language.text(random_, len(words) - half)])
    share = int(kind.partition(" ")[0]) / 100
    for place in random_.sample(range(len(words)), round(share * len(words))):
        words[place] = language.text(random_, 1)
    return " ".join(words)


def with_copies(seed: int, conversations: int, copies: int) -> tuple[list[Conversation], list[str]]:
    """Conversations, in a random order but copies after their originals; and what each is: "" or a
    kind of copy, `copies` of each kind."""
    random_, language = random.Random(seed), Language(seed)
    originals = []
    for n in range(conversations - copies * len(COPIES)):
        turns = [language.text(random_, random_.choice((5, 10, 20, 40, 80))) for _ in range(5)]
        originals.append((conversation(str(n), turns), ""))
    chosen = random_.sample(originals, copies * len(COPIES))
    added = [
        (copied(random_, language, original, COPIES[n % len(COPIES)]), COPIES[n % len(COPIES)])
        for n, (original, _) in enumerate(chosen)
    ]
    random_.shuffle(added)
    both = [*originals, *added]
    return [c for c, _ in both], [kind for _, kind in both]


# ----------------------------------------------------------------------------------- languages

TEXTS = {
    "en": "Could you help me with a letter to my landlord? The heating has been broken since "
    "Monday and nobody answers the phone. I would like to sound polite but firm. That is too long, "
    "please make it shorter and leave out the part about the neighbours. Thank you, that reads "
    "much better than what I had written myself yesterday evening.",
    "de": "Kannst du mir bei einem Brief an meinen Vermieter helfen? Die Heizung ist seit Montag "
    "kaputt und niemand geht ans Telefon. Ich möchte höflich, aber bestimmt klingen. Das ist zu "
    "lang, bitte kürze es und lass den Teil über die Nachbarn weg. Danke, das liest sich viel "
    "besser als das, was ich gestern Abend selbst geschrieben hatte.",
    "fr": "Peux-tu m'aider à écrire une lettre à mon propriétaire ? Le chauffage est en panne "
    "depuis lundi et personne ne répond au téléphone. Je voudrais rester poli mais ferme. C'est "
    "trop long, raccourcis le texte et enlève la partie sur les voisins. Merci, c'est bien mieux "
    "que ce que j'avais écrit moi-même hier soir.",
    "es": "¿Puedes ayudarme con una carta para mi casero? La calefacción no funciona desde el "
    "lunes y nadie contesta al teléfono. Quiero sonar educado pero firme. Es demasiado largo, "
    "hazlo más corto y quita la parte sobre los vecinos. Gracias, se lee mucho mejor que lo que "
    "había escrito yo mismo ayer por la noche.",
    "it": "Mi puoi aiutare con una lettera al mio padrone di casa? Il riscaldamento è rotto da "
    "lunedì e nessuno risponde al telefono. Vorrei essere gentile ma deciso. È troppo lungo, "
    "accorcialo e togli la parte sui vicini. Grazie, si legge molto meglio di quello che avevo "
    "scritto io ieri sera.",
    "pt": "Você pode me ajudar com uma carta para o meu senhorio? O aquecimento está quebrado "
    "desde segunda-feira e ninguém atende o telefone. Quero parecer educado, mas firme. Está longo "
    "demais, faça um texto mais curto e tire a parte sobre os vizinhos. Obrigado, ficou muito "
    "melhor do que aquilo que eu tinha escrito ontem à noite.",
    "nl": "Kun je me helpen met een brief aan mijn huisbaas? De verwarming is sinds maandag "
    "kapot en niemand neemt de telefoon op. Ik wil beleefd maar duidelijk klinken. Dit is te lang, "
    "maak het korter en laat het stuk over de buren weg. Bedankt, dat leest veel beter dan wat ik "
    "gisteravond zelf had geschreven.",
    "sv": "Kan du hjälpa mig med ett brev till min hyresvärd? Värmen har varit trasig sedan i "
    "måndags och ingen svarar i telefon. Jag vill låta artig men bestämd. Det är för långt, gör "
    "det kortare och ta bort delen om grannarna. Tack, det där låter mycket bättre än det som jag "
    "själv skrev i går kväll.",
    "pl": "Czy możesz mi pomóc z listem do właściciela mieszkania? Ogrzewanie nie działa od "
    "poniedziałku i nikt nie odbiera telefonu. Chcę brzmieć uprzejmie, ale stanowczo. To jest za "
    "długie, skróć to i usuń fragment o sąsiadach. Dziękuję, czyta się to znacznie lepiej niż to, "
    "co sam napisałem wczoraj wieczorem.",
    "tr": "Ev sahibime bir mektup yazmama yardım eder misin? Kalorifer pazartesiden beri bozuk "
    "ve kimse telefona cevap vermiyor. Kibar ama kararlı görünmek istiyorum. Bu çok uzun oldu, "
    "kısalt ve komşularla ilgili bölümü çıkar. Teşekkürler, dün akşam kendi yazdığımdan çok daha "
    "iyi oldu.",
    "ru": "Ты можешь помочь мне с письмом хозяину квартиры? Отопление не работает с "
    "понедельника, и никто не отвечает на звонки. Я хочу, чтобы это звучало вежливо, но твёрдо. "
    "Это слишком длинно, сделай короче и убери часть о соседях. Спасибо, это читается гораздо "
    "лучше, чем то, что я сам написал вчера вечером.",
    "ar": "هل يمكنك مساعدتي في كتابة رسالة إلى صاحب البيت؟ التدفئة معطلة منذ يوم الاثنين ولا أحد "
    "يرد على الهاتف. أريد أن أكون مهذبا ولكن حازما. هذا طويل جدا، اجعله أقصر واحذف الجزء الخاص "
    "بالجيران. شكرا، هذا أفضل بكثير مما كتبته بنفسي مساء أمس.",
    "hi": "क्या आप मेरे मकान मालिक को पत्र लिखने में मेरी मदद कर सकते हैं? सोमवार से हीटर खराब "
    "है और कोई फोन नहीं उठाता। मैं विनम्र लेकिन दृढ़ रहना चाहता हूँ। यह बहुत लंबा है, इसे छोटा "
    "कीजिए और पड़ोसियों वाला हिस्सा हटा दीजिए। धन्यवाद, यह उससे बहुत बेहतर है जो मैंने कल शाम खुद "
    "लिखा था।",
    "zh": "你能帮我给房东写一封信吗?暖气从星期一开始就坏了,打电话也没有人接。我希望语气礼貌但是坚"
    "决。这封信太长了,请写得短一些,去掉关于邻居的那一部分。谢谢,这比我昨天晚上自己写的好多了。另外,"
    "请再检查一下有没有错别字,然后告诉我应该怎么寄出去。",
    "ja": "大家さんへの手紙を書くのを手伝ってもらえますか。月曜日から暖房が壊れていて、電話をして"
    "も誰も出ません。丁寧だけれどはっきりした調子にしたいです。長すぎるので、もっと短くして、隣の人"
    "についての部分は削除してください。ありがとうございます。昨日の夜に自分で書いたものよりずっと読"
    "みやすいです。",
    "ko": "집주인에게 보낼 편지를 쓰는 것을 도와줄 수 있나요? 월요일부터 난방이 고장 났는데 "
    "아무도 전화를 받지 않습니다. 정중하지만 단호하게 들리면 좋겠습니다. 너무 길어요, 더 짧게 쓰고 "
    "이웃에 관한 부분은 빼 주세요. 고맙습니다, 어제 저녁에 제가 직접 쓴 것보다 훨씬 낫네요.",
}  # fmt: skip


def stretches(text: str, letters: int) -> list[str]:
    """All stretches of a text that begin with a word, end with one, and have at least so many
    letters and as few more as possible; where there are no spaces, from any fifth letter on."""
    spaced = " " in text[:40]
    words = text.split(" ") if spaced else list(text)
    found = []
    for start in range(0, len(words), 1 if spaced else 5):
        taken, size = [], 0
        for word in words[start:]:
            taken.append(word)
            size += sum(map(str.isalpha, word))
            if size >= letters:
                found.append((" " if spaced else "").join(taken))
                break
    return found
