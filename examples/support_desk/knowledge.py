"""Knowledge of each brand, the only data of the desk that differs by tenant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Article:
    keywords: frozenset[str]
    answer: str


@dataclass(frozen=True)
class Brand:
    name: str
    greeting: str
    articles: tuple[Article, ...]


def _article(keywords: str, answer: str) -> Article:
    return Article(frozenset(keywords.split()), answer)


_EVERYWHERE: Final = (
    _article(
        "password reset login link forgot",
        "You can set a new password with 'Forgot password' on the login page; the link in the"
        " mail is valid for an hour.",
    ),
    _article(
        "invoice vat copy download billing",
        "All invoices stand under Account > Billing, with your VAT number if you have set one.",
    ),
    _article(
        "cancel subscription plan renew",
        "You can cancel under Account > Plan; it stays active until the end of the paid month.",
    ),
)

_BRANDS: Final[Mapping[str, Brand]] = {
    "acme": Brand(
        name="Acme Tools",
        greeting="Dear",
        articles=(
            *_EVERYWHERE,
            _article(
                "drill battery charge charger warranty",
                "Batteries carry a warranty of three years: we send a new one, and the box of it"
                " takes the old one back.",
            ),
            _article(
                "delivery parcel tracking late arrive",
                "Parcels take two working days; the tracking number is in your confirmation mail.",
            ),
        ),
    ),
    "globex": Brand(
        name="Globex Cloud",
        greeting="Hello",
        articles=(
            *_EVERYWHERE,
            _article(
                "api rate limit 429 quota",
                "Business plans have 100 requests a second; wait as long as the Retry-After header"
                " of a 429 says.",
            ),
            _article(
                "backup restore snapshot database",
                "Snapshots are kept for 30 days: Databases > Snapshots > Restore makes a new"
                " database beside the old one.",
            ),
        ),
    ),
    "initech": Brand(
        name="Initech Payroll",
        greeting="Good day",
        articles=(
            *_EVERYWHERE,
            _article(
                "tps report cover sheet export",
                "The cover sheet is on by default since May: Reports > TPS > Export adds it.",
            ),
            _article(
                "payslip salary month employee",
                "Payslips are published on the last working day of the month, to each employee's"
                " own page.",
            ),
        ),
    ),
}


def brand_of(tenant: str | None) -> Brand:
    """Return the brand of a tenant; an unknown tenant gets the common knowledge."""
    return _BRANDS.get(tenant or "") or Brand(
        name=(tenant or "The support desk").title(), greeting="Hello", articles=_EVERYWHERE
    )
