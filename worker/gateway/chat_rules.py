"""What the demo's workflow reads out of a message, and what its AI answers. Pure."""

import re
from collections.abc import Collection

# People first: "a human, not the AI" is a wish for a human. Persian words are stems, because endings are joined on.
RULES = {
    "support": r"\b(humans?|persons?|people|agents?|operators?|someone|somebody)\b"
    r"|\b(انسان|آدم|پشتیبان|اپراتور|کارشناس|یک نفر)",
    "billing": r"\b(refund\w*|invoices?|bills?|billing|payments?|paid|money)\b|\b(پول|فاکتور|پرداخت|بازپرداخت)",
    "ai": r"\bback to (the |an )?(bot|ai|assistant)\b|برگرد\w* به (ربات|هوش مصنوعی)",
}
ANSWERS = {
    r"\b(open|hours?|close)\b|ساعت": "We are open from Monday to Friday, 9:00 to 18:00.",
    r"\b(ship\w*|deliver\w*|parcel|order)\b|ارسال": "Parcels leave the same day and take two to four days.",
    r"\bpassword|رمز": "Choose “Forgot password” on the sign-in page: a link comes by mail.",
    r"سلام": "سلام! چطور می‌توانم کمکتان کنم؟",
    r"\b(hello|hi|hey)\b": "Hello! How can I help you?",
}
OTHERWISE = "I have noted that. Could you tell me a little more?"
# Many keyboards write these two letters as Arabic does.
PERSIAN = str.maketrans("يك", "یک")


def wished(text: str, destinations: Collection[str]) -> str | None:
    """The destination that a message asks for, of those that there are; None when it asks for none."""
    return next((to for to in RULES if to in destinations and _says(RULES[to], text)), None)


def answer(text: str) -> str:
    return next((canned for words, canned in ANSWERS.items() if _says(words, text)), OTHERWISE)


def _says(words: str, text: str) -> bool:
    return re.search(words, text.translate(PERSIAN), re.IGNORECASE) is not None
