"""Rules for national identity numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from stdnum.util import get_cc_module

from sidecar.guardrails.detectors.context import after_words
from sidecar.guardrails.matching.rule import Rank, Rule, rule, where


@dataclass(frozen=True, slots=True)
class Identifier:
    """One kind of number. `check` is a module of stdnum; `words` must stand before it if given.

    `others` are such words in other scripts than Latin.
    """

    type: str
    shape: str
    check: str
    words: str = ""
    others: str = ""


IDENTIFIERS: Final[dict[str, tuple[Identifier, ...]]] = {
    "AR": (
        Identifier("AR_CUIT", r"(?:20|23|24|27|30|33|34)-?[0-9]{8}-?[0-9]", "ar.cuit"),
        Identifier("AR_DNI", r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}", "ar.dni", "dni|documento"),
    ),
    "AT": (Identifier("AT_SVNR", r"[0-9]{4} ?[0-9]{6}", "at.vnr", "svnr|sozialversicherung"),),
    "AU": (Identifier("AU_TFN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "au.tfn", "tfn|tax file"),),
    "BE": (Identifier("BE_NN", r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}-?[0-9]{3}\.?[0-9]{2}", "be.nn"),),
    "BG": (Identifier("BG_EGN", r"[0-9]{10}", "bg.egn", "egn", "ЕГН|егн"),),
    "BR": (
        Identifier("BR_CPF", r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}", "br.cpf"),
        Identifier("BR_CNPJ", r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}/?[0-9]{4}-?[0-9]{2}", "br.cnpj"),
    ),
    "CA": (
        Identifier("CA_SIN", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", "ca.sin", "sin|social ins"),
    ),
    "CH": (Identifier("CH_AHV", r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", "ch.ssn"),),
    "CL": (Identifier("CL_RUT", r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}-[0-9Kk]", "cl.rut"),),
    "CN": (Identifier("CN_RIC", r"[1-9][0-9]{16}[0-9Xx]", "cn.ric"),),
    "CO": (Identifier("CO_NIT", r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-[0-9]", "co.nit"),),
    "CZ": (Identifier("CZ_RC", r"[0-9]{6}/[0-9]{3,4}", "cz.rc"),),
    "DE": (Identifier("DE_TAX_ID", r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "de.idnr"),),
    "DK": (Identifier("DK_CPR", r"[0-3][0-9][01][0-9]{3}-?[0-9]{4}", "dk.cpr", "cpr"),),
    "EE": (Identifier("EE_IK", r"[1-8][0-9]{10}", "ee.ik"),),
    "ES": (
        Identifier(
            "ES_NIF",
            r"[0-9]{8}-?[A-Za-z]|[0-9]{2}\.[0-9]{3}\.[0-9]{3}(?:-?[A-Za-z]| [A-Z])",
            "es.dni",
        ),
        Identifier("ES_NIE", r"[XYZxyz]-?[0-9]{7}-?[A-Za-z]", "es.nie"),
    ),
    "FI": (Identifier("FI_HETU", r"[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-Z]", "fi.hetu"),),
    "FR": (
        Identifier(
            "FR_NIR",
            r"[12] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
            "fr.nir",
        ),
        Identifier("FR_TAX_ID", r"[0-3][0-9](?: ?[0-9]{2})(?: ?[0-9]{3}){3}", "fr.nif", "fiscal"),
    ),
    "GB": (
        Identifier("GB_NHS", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", "gb.nhs", "nhs"),
        Identifier("GB_UTR", r"[0-9]{5} ?[0-9]{5}", "gb.utr", "utr|taxpayer reference"),
        # HMRC's manual NIM39110: two letters, not all of them, six digits, A to D.
        Identifier(
            "GB_NINO",
            r"[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z][A-CEGHJ-NPR-TW-Za-ceghj-npr-tw-z]"
            r"[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-Da-d]",
            "",
        ),
    ),
    "GR": (
        Identifier("GR_AMKA", r"[0-3][0-9][01][0-9]{8}", "gr.amka", "amka", "ΑΜΚΑ"),  # noqa: RUF001 - Greek
    ),
    "HR": (Identifier("HR_OIB", r"[0-9]{11}", "hr.oib", "oib"),),
    "ID": (Identifier("ID_NIK", r"[1-9][0-9]{15}", "id.nik", "nik|ktp"),),
    "IE": (Identifier("IE_PPS", r"[0-9]{7}[A-Wa-w][A-IWa-iw]?", "ie.pps"),),
    "IL": (Identifier("IL_ID", r"[0-9]{9}", "il.idnr", "teudat|zehut|id number|israeli id"),),
    "IN": (
        Identifier("IN_AADHAAR", r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", "in.aadhaar"),
        Identifier("IN_PAN", r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", "in.pan"),
    ),
    "IS": (Identifier("IS_KENNITALA", r"[0-3][0-9][01][0-9]{3}-[0-9]{4}", "is.kennitala"),),
    "IT": (
        Identifier(
            "IT_CODICE_FISCALE",
            r"[A-Za-z]{6}[0-9LMNP-Vlmnp-v]{2}[A-EHLMPR-Ta-ehlmpr-t][0-9LMNP-Vlmnp-v]{2}"
            r"[A-Za-z][0-9LMNP-Vlmnp-v]{3}[A-Za-z]",
            "it.codicefiscale",
        ),
    ),
    "JP": (
        Identifier(
            "JP_MY_NUMBER",
            r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
            "jp.in_",
            "my ?number",
            "マイナンバー|個人番号",
        ),
    ),
    "KR": (Identifier("KR_RRN", r"[0-9]{2}[01][0-9][0-3][0-9]-[0-9]{7}", "kr.rrn"),),
    "LT": (Identifier("LT_ASMENS", r"[1-6][0-9]{10}", "lt.asmens"),),
    "MX": (
        Identifier("MX_CURP", r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "mx.curp"),
        Identifier("MX_RFC", r"[A-Z&]{3,4}-?[0-9]{6}-?[0-9A-Z]{2}[0-9A]", "mx.rfc"),
    ),
    "MY": (Identifier("MY_NRIC", r"[0-9]{2}[01][0-9][0-3][0-9]-[0-9]{2}-[0-9]{4}", "my.nric"),),
    "NL": (
        Identifier(
            "NL_BSN", r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}", "nl.bsn", "bsn|burgerservice|sofi"
        ),
    ),
    "NO": (Identifier("NO_FODSELSNUMMER", r"[0-7][0-9][0-9]{4} ?[0-9]{5}", "no.fodselsnummer"),),
    "NZ": (Identifier("NZ_IRD", r"[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", "nz.ird", "ird"),),
    "PK": (Identifier("PK_CNIC", r"[1-7][0-9]{4}-[0-9]{7}-[1-9]", "pk.cnic"),),
    "PL": (
        Identifier("PL_PESEL", r"[0-9]{11}", "pl.pesel"),
        Identifier("PL_NIP", r"[0-9]{3}-?[0-9]{3}-?[0-9]{2}-?[0-9]{2}", "pl.nip", "nip"),
    ),
    "PT": (
        Identifier("PT_NIF", r"[1-9][0-9]{2} ?[0-9]{3} ?[0-9]{3}", "pt.nif", "nif|contribuinte"),
        Identifier("PT_CC", r"[0-9]{8} ?[0-9] ?[A-Z]{2}[0-9]", "pt.cc"),
    ),
    "RO": (Identifier("RO_CNP", r"[1-9][0-9]{12}", "ro.cnp"),),
    "RU": (Identifier("RU_INN", r"[0-9]{12}|[0-9]{10}", "ru.inn", "inn", "ИНН"),),
    "SE": (
        Identifier(
            "SE_PERSONNUMMER",
            r"(?:19|20)?[0-9]{2}[01][0-9][0-3][0-9][-+][0-9]{4}",
            "se.personnummer",
        ),
    ),
    "SI": (Identifier("SI_EMSO", r"[0-3][0-9][01][0-9]{10}", "si.emso"),),
    "SK": (Identifier("SK_RC", r"[0-9]{6}/[0-9]{3,4}", "sk.rc"),),
    "TH": (Identifier("TH_PIN", r"[1-8]-?[0-9]{4}-?[0-9]{5}-?[0-9]{2}-?[0-9]", "th.pin"),),
    "TR": (Identifier("TR_KIMLIK", r"[1-9][0-9]{10}", "tr.tckimlik"),),
    "UA": (Identifier("UA_RNTRC", r"[0-9]{10}", "ua.rntrc", "rntrc|ipn", "РНОКПП|ІПН"),),
    "US": (
        Identifier("US_ITIN", r"9[0-9]{2}-[5-9][0-9]-[0-9]{4}", "us.itin"),
        Identifier(
            "US_EIN", r"[0-9]{2}-[0-9]{7}", "us.ein", "ein|employer id|tax id|fein|federal tax"
        ),
    ),
    "ZA": (
        Identifier("ZA_ID", r"[0-9]{2}[01][0-9][0-3][0-9] ?[0-9]{4} ?[01][0-9]{2}", "za.idnr"),
    ),
}
"""By ISO country code."""

COUNTRIES: Final = frozenset(IDENTIFIERS)

NATIONAL_TYPES: Final = tuple(
    sorted({identifier.type for known in IDENTIFIERS.values() for identifier in known})
)


def national_rules(countries: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules for the identifiers of *countries*."""
    return tuple(_rule(one) for country in countries for one in IDENTIFIERS[country])


@lru_cache(maxsize=256)
def _rule(identifier: Identifier) -> Rule:
    regex = rf"\b(?:{identifier.shape})\b"
    if identifier.words:
        regex = after_words(identifier.words, identifier.shape, others=identifier.others)
    if not identifier.check:
        return rule(identifier.type, regex, rank=Rank.NATIONAL)
    module = get_cc_module(*identifier.check.split("."))
    if module is None:
        raise LookupError(identifier.check)
    is_valid = module.is_valid
    check = where(lambda candidate: bool(is_valid(candidate.decode("ascii").replace(".", ""))))
    return rule(identifier.type, regex, check, rank=Rank.NATIONAL)
