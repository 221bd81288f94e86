from __future__ import annotations

from functools import cache

import pytest

from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.detectors.national import COUNTRIES, IDENTIFIERS, NATIONAL_TYPES
from sidecar.policy.snapshot import EffectivePolicy, PolicySnapshot
from tests.support.guardrails import parts_of, policy, snapshot_of

EXAMPLES = {
    "AR_CUIT": "20-05536168-2",
    "AR_DNI": "20.123.456",
    "AT_SVNR": "1237 010180",
    "AU_TFN": "123 456 782",
    "BE_NN": "85073003328",
    "BG_EGN": "8032056031",
    "BR_CPF": "390.533.447-05",
    "BR_CNPJ": "16.727.230/0001-97",
    "CA_SIN": "123-456-782",
    "CH_AHV": "7569217076985",
    "CL_RUT": "76086428-5",
    "CN_RIC": "360426199101010071",
    "CO_NIT": "213.123.432-1",
    "CZ_RC": "710319/2745",
    "DE_TAX_ID": "36 574 261 809",
    "DK_CPR": "211062-5629",
    "EE_IK": "36805280109",
    "ES_NIF": "54362315-K",
    "ES_NIE": "x-2482300w",
    "FI_HETU": "131052-308T",
    "FR_NIR": "2 95 10 99 126 111 93",
    "FR_TAX_ID": "3023217600053",
    "GB_NHS": "943-476-5870",
    "GB_UTR": "1955839661",
    "GR_AMKA": "01013099997",
    "ID_NIK": "3171011708450001",
    "IE_PPS": "6433435F",
    "IN_AADHAAR": "234123412346",
    "IN_PAN": "ACUPA7085R",
    "IS_KENNITALA": "120174-3399",
    "IT_CODICE_FISCALE": "RCCMNL83S18D969H",
    "JP_MY_NUMBER": "6214 9832 0257",
    "KR_RRN": "971013-9019902",
    "LT_ASMENS": "33309240064",
    "MX_CURP": "BOXW310820HNERXN09",
    "MX_RFC": "MAB-930714-8T4",
    "MY_NRIC": "770305-02-1234",
    "NL_BSN": "1112.22.333",
    "NO_FODSELSNUMMER": "151086 95088",
    "NZ_IRD": "49098576",
    "PK_CNIC": "34201-0891231-8",
    "PL_PESEL": "44051401359",
    "PT_CC": "00000000 0 ZZ4",
    "RO_CNP": "1630615123457",
    "RU_INN": "123456789047",
    "SE_PERSONNUMMER": "880320-0016",
    "SI_EMSO": "0101006500006",
    "SK_RC": "710319/2745",
    "TH_PIN": "3100600445635",
    "TR_KIMLIK": "17291716060",
    "UA_RNTRC": "1759013776",
    "US_ITIN": "912-90-3456",
    "US_EIN": "91-1144442",
    "ZA_ID": "7503305044089",
    "GB_NINO": "AB 12 34 56 C",
    "HR_OIB": "33392005961",
    "IL_ID": "039337423",
    "PL_NIP": "856-734-62-15",
    "PT_NIF": "501 964 843",
}
"""Numbers that the documents of each kind print as examples; nobody's own."""

KINDS = {one.type: (country, one) for country, kinds in IDENTIFIERS.items() for one in kinds}


@cache
def policies() -> PolicySnapshot:
    """Return a policy for each country, and the default one for none, compiled together."""
    of_countries = [
        policy(f"  - {{name: p, type: pii, countries: ['{one}']}}", name=f"of-{one.lower()}")
        for one in sorted(COUNTRIES)
    ]
    return snapshot_of((policy("  - {name: p, type: pii}"), *of_countries))


def found(text: str, country: str | None) -> list[tuple[str, str]]:
    parts = parts_of([text])
    chosen = policies().effective(PolicyBinding(key=country and f"of-{country.lower()}"))
    assert isinstance(chosen, EffectivePolicy)
    (outcome,) = chosen.local.scan(parts)
    assert outcome.failure is None
    return [(one.type, parts[0].content[one.start : one.end].decode()) for one in outcome.findings]


@pytest.mark.parametrize("type_", NATIONAL_TYPES)
def test_an_identifier_is_found_where_its_country_is_configured(type_: str) -> None:
    """Behind its word, where the number alone could be any number."""
    country, identifier = KINDS[type_]
    number = EXAMPLES[type_]
    word = identifier.words.split("|")[0].replace(" ?", " ")
    assert (type_, number) in found(f"{word}: {number} x" if word else f"x {number} x", country)
    assert type_ not in {name for name, _ in found(f"{word}: {number}", None)}


@pytest.mark.parametrize("type_", [name for name in NATIONAL_TYPES if KINDS[name][1].others])
def test_the_word_of_an_identifier_counts_in_the_script_of_its_country(type_: str) -> None:
    """Right before the number, within a sentence, or before a wide colon."""
    country, identifier = KINDS[type_]
    number = EXAMPLES[type_]
    for word in identifier.others.split("|"):
        for text in (f"{word} {number}", f"ж{word}\uff1a{number}。", f"x {word}: {number} x"):
            assert (type_, number) in found(text, country)


@pytest.mark.parametrize("type_", [name for name in NATIONAL_TYPES if KINDS[name][1].words])
def test_a_number_that_could_be_any_needs_its_word(type_: str) -> None:
    """Nine or ten digits are an order number until somebody says otherwise."""
    country, _ = KINDS[type_]
    assert type_ not in {name for name, _ in found(f"order {EXAMPLES[type_]} x", country)}


@pytest.mark.parametrize(
    ("country", "text", "number"),
    [
        ("ES", "DNI 54.362.315-K", "54.362.315-K"),
        ("ES", "54.362.315 K", "54.362.315 K"),
        ("ES", "54.362.315 k and 54.362.315-L", None),
        ("GB", "ab-12-34-56-c", "ab-12-34-56-c"),
    ],
)
def test_a_number_is_found_with_the_signs_that_people_put_into_it(
    country: str, text: str, number: str | None
) -> None:
    """Dots of thousands, dashes; a word of one letter behind a number is none of its own."""
    assert [value for _, value in found(text, country)] == ([] if number is None else [number])


@pytest.mark.parametrize(
    ("country", "text", "number"),
    [
        ("GB", '{"nhsNumber":"9434765919"}', "9434765919"),
        ("AU", "tax_file_number=123456782", "123456782"),
        ("NL", "CLIENT_BSN: 111222333", "111222333"),
        ("US", '"federal_tax_id":"91-1144442"', "91-1144442"),
        ("PT", "nif_no: 501964843", "501964843"),
    ],
)
def test_the_name_of_a_field_is_a_word_before_its_number(
    country: str, text: str, number: str
) -> None:
    """JSON and logs join the words with underscores or capitals."""
    assert number in {value for _, value in found(text, country)}


def digit_changed(number: str) -> str:
    at = max(index for index, character in enumerate(number) if character.isdigit())
    return f"{number[:at]}{(int(number[at]) + 1) % 10}{number[at + 1 :]}"


CHECKED = sorted({
    "BE_NN", "BR_CPF", "CN_RIC", "DE_TAX_ID", "EE_IK", "FR_NIR", "IN_AADHAAR", "PL_PESEL",
    "RO_CNP", "TR_KIMLIK",
})  # fmt: skip


@pytest.mark.parametrize("type_", CHECKED)
def test_a_wrong_check_digit_is_no_identifier(type_: str) -> None:
    """Numbers without a word before them count by their check digits."""
    country, _ = KINDS[type_]
    number = digit_changed(EXAMPLES[type_])
    assert type_ not in {name for name, _ in found(f"x {number} x", country)}
