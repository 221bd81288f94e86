# ruff: noqa: RUF001 - look-alikes such as full-width letters are what is tested
from __future__ import annotations

import random
import uuid

import pytest

from sidecar.guardrails.detectors.national import NATIONAL_TYPES
from sidecar.guardrails.detectors.pii import PII_TYPES
from tests.support.cpu_time import least_seconds
from tests.support.guardrails import effective, parts_of, policy

POLICY = effective(policy("  - {name: pii, type: pii}"))
REGIONAL = effective(policy("  - {name: pii, type: pii, regions: [US, DE]}"))

FOUND = {
    "email": ("mail bob@example.com.", "EMAIL", "bob@example.com"),
    "email_tagged": ("<a.b+c_d@mail.example.co.uk>", "EMAIL", "a.b+c_d@mail.example.co.uk"),
    "email_of_git": ("git@example.com: the address", "EMAIL", "git@example.com"),
    "email_in_a_file_name": ("bob@example.com.png", "EMAIL", "bob@example.com"),
    "email_mixed_case": ("Bob@Example.coM", "EMAIL", "Bob@Example.coM"),
    "email_in_chinese": ("邮件bob@example.com。", "EMAIL", "bob@example.com"),
    "email_domain_of_another_script": ("почта иван@пример.рф.", "EMAIL", "иван@пример.рф"),
    "email_domain_with_umlaut": ("mail bob@bücher.de now", "EMAIL", "bob@bücher.de"),
    "email_local_part_with_umlaut": ("an jürgen@example.com,", "EMAIL", "jürgen@example.com"),
    "email_japanese_domain": ("bob@例え.jpへ送って", "EMAIL", "bob@例え.jp"),
    "email_chinese": ("是张三@例子.中国谢谢", "EMAIL", "是张三@例子.中国"),
    "email_hindi": ("संपर्क@डाटामेल.भारत है", "EMAIL", "संपर्क@डाटामेल.भारत"),
    "email_arabic": ("user@مثال.السعودية", "EMAIL", "user@مثال.السعودية"),
    "email_punycode": ("x@xn--e1afmkfd.xn--p1ai ok", "EMAIL", "x@xn--e1afmkfd.xn--p1ai"),
    "email_behind_a_foreign_sign": ("،bob@example.com", "EMAIL", "bob@example.com"),
    "email_invisible": ("bob@exa\u200bmple.com", "EMAIL", "bob@exa\u200bmple.com"),
    "visa": ("pay 4111111111111111 now", "CREDIT_CARD", "4111111111111111"),
    "visa_spaces": ("4111 1111 1111 1111", "CREDIT_CARD", "4111 1111 1111 1111"),
    "visa_dashes": ("4111-1111-1111-1111", "CREDIT_CARD", "4111-1111-1111-1111"),
    "visa_13": ("4222222222222", "CREDIT_CARD", "4222222222222"),
    "amex": ("3782 822463 10005", "CREDIT_CARD", "3782 822463 10005"),
    "mastercard_2": ("2221000000000009", "CREDIT_CARD", "2221000000000009"),
    "diners": ("30569309025904", "CREDIT_CARD", "30569309025904"),
    "jcb": ("3530111333300000", "CREDIT_CARD", "3530111333300000"),
    "maestro_12": ("card 500000000009", "CREDIT_CARD", "500000000009"),
    "unionpay_19": ("6205500000000000004", "CREDIT_CARD", "6205500000000000004"),
    "card_and_code": ("4111 1111 1111 1111 123", "CREDIT_CARD", "4111 1111 1111 1111"),
    "card_after_order": ("1234 4111 1111 1111 1111", "CREDIT_CARD", "4111 1111 1111 1111"),
    "card_full_width": (
        "４１１１１１１１１１１１１１１１",
        "CREDIT_CARD",
        "４１１１１１１１１１１１１１１１",
    ),
    "iban": ("to DE89370400440532013000.", "IBAN", "DE89370400440532013000"),
    "iban_spaces": ("GB82 WEST 1234 5698 7654 32 thanks", "IBAN", "GB82 WEST 1234 5698 7654 32"),
    "iban_dots": ("DE89.3704.0044.0532.0130.00.", "IBAN", "DE89.3704.0044.0532.0130.00"),
    "iban_lower": ("de89370400440532013000", "IBAN", "de89370400440532013000"),
    "ssn": ("ssn 536-90-4399", "US_SSN", "536-90-4399"),
    "ssn_spaces": ("536 90 4399", "US_SSN", "536 90 4399"),
    "ssn_bare_with_word": ("SSN: 536904399", "US_SSN", "536904399"),
    "ipv4": ("from 203.0.113.7:443", "IPV4", "203.0.113.7"),
    "card_bare_near_a_word": ("Karte: 4539148803436467", "CREDIT_CARD", "4539148803436467"),
    "card_and_word_behind": ("4539148803436467 (my Visa)", "CREDIT_CARD", "4539148803436467"),
    "card_of_json": ('{"card_number": "4539148803436467"}', "CREDIT_CARD", "4539148803436467"),
    "card_grouped": ("so 4539 1488 0343 6467", "CREDIT_CARD", "4539 1488 0343 6467"),
    "ipv4_small_behind_a_word": ("server 5.9.12.34", "IPV4", "5.9.12.34"),
    "ipv4_small_and_port": ("5.9.12.34:80", "IPV4", "5.9.12.34"),
    "ipv6": ("at 2001:db8::8a2e:370:7334,", "IPV6", "2001:db8::8a2e:370:7334"),
    "ipv6_mapped": ("::ffff:203.0.113.7 here", "IPV6", "::ffff:203.0.113.7"),
    "ipv6_full": (
        "2001:0db8:0000:0000:0000:ff00:0042:8329",
        "IPV6",
        "2001:0db8:0000:0000:0000:ff00:0042:8329",
    ),
    "phone_plus": ("call +1 415 555 2671 today", "PHONE", "+1 415 555 2671"),
    "phone_de": ("+49 30 901820", "PHONE", "+49 30 901820"),
    "phone_and_year": ("+1 415 555 2671 2024", "PHONE", "+1 415 555 2671"),
    "phone_word": ("Phone: (415) 555-2671.", "PHONE", "(415) 555-2671"),
    "birth": ("Date of birth: 14.03.1987, Bonn", "DATE_OF_BIRTH", "14.03.1987"),
    "birth_in_words": ("she was born on March 3rd, 1987", "DATE_OF_BIRTH", "March 3rd, 1987"),
    "birth_iso": ("dob=1987-03-14", "DATE_OF_BIRTH", "1987-03-14"),
    "birth_german": ("geboren am 3. M\u00e4rz 1987", "DATE_OF_BIRTH", "3. M\u00e4rz 1987"),
    "address": (
        "Ship to 742 Evergreen Terrace, Springfield, OR 97403 please",
        "POSTAL_ADDRESS",
        "742 Evergreen Terrace, Springfield, OR 97403",
    ),
    "address_london": (
        "my address is 221B Baker Street, London NW1 6XE.",
        "POSTAL_ADDRESS",
        "221B Baker Street, London NW1 6XE",
    ),
    "address_german": (
        "Anschrift: Hauptstra\u00dfe 12, 10115 Berlin",
        "POSTAL_ADDRESS",
        "Hauptstra\u00dfe 12, 10115 Berlin",
    ),
    "address_french": (
        "Livrer à 5 bis rue de la République, 69002 Lyon.",
        "POSTAL_ADDRESS",
        "5 bis rue de la République, 69002 Lyon",
    ),
    "address_spanish": (
        "Vivo en Calle de Alcalá 45, 3º B, 28014 Madrid",
        "POSTAL_ADDRESS",
        "Calle de Alcalá 45, 3º B, 28014 Madrid",
    ),
    "address_italian": (
        "Indirizzo: Via Roma 12/A, 10121 Torino (TO)",
        "POSTAL_ADDRESS",
        "Via Roma 12/A, 10121 Torino (TO)",
    ),
    "address_dutch": (
        "Ik woon op Keizersgracht 123, 1015 CJ Amsterdam",
        "POSTAL_ADDRESS",
        "Keizersgracht 123, 1015 CJ Amsterdam",
    ),
    "address_polish": (
        "Adres: ul. Marszałkowska 12 m. 4, 00-624 Warszawa",
        "POSTAL_ADDRESS",
        "ul. Marszałkowska 12 m. 4, 00-624 Warszawa",
    ),
    "address_swedish": (
        "bosatt på Sankt Eriksgatan 5 lgh 1102, 112 39 Stockholm",
        "POSTAL_ADDRESS",
        "Sankt Eriksgatan 5 lgh 1102, 112 39 Stockholm",
    ),
    "address_swiss": (
        "Adresse: Rue du Rhône 10, 1204 Genève",
        "POSTAL_ADDRESS",
        "Rue du Rhône 10, 1204 Genève",
    ),
    "address_brazilian": (
        "Endereço: Av. Paulista, 1578 - Bela Vista, São Paulo - SP, 01310-200",
        "POSTAL_ADDRESS",
        "Av. Paulista, 1578 - Bela Vista, São Paulo - SP, 01310-200",
    ),
    "address_chinese": (
        "地址：北京市朝阳区建国路88号3室",
        "POSTAL_ADDRESS",
        "北京市朝阳区建国路88号3室",
    ),
    "address_japanese": (
        "住所は〒100-0001 東京都千代田区千代田1丁目1番1号です",
        "POSTAL_ADDRESS",
        "〒100-0001 東京都千代田区千代田1丁目1番1号",
    ),
    "address_in_lines": (
        "Address:\n12 rue Victor Hugo\n75001 Paris",
        "POSTAL_ADDRESS",
        "12 rue Victor Hugo\n75001 Paris",
    ),
    "passport": ("passport number: X1234567", "PASSPORT", "X1234567"),
    "passport_french": ("passeport n\u00b0 12AB34567", "PASSPORT", "12AB34567"),
    "passport_spanish": ("pasaporte: AAA123456", "PASSPORT", "AAA123456"),
    "passport_german": ("Reisepass C01X00T47", "PASSPORT", "C01X00T47"),
    "routing": ("routing number 021000021", "US_BANK_ROUTING", "021000021"),
    "account": ("Account number: 1234-567-890", "BANK_ACCOUNT", "1234-567-890"),
    "bic": ("BIC: DEUTDEFF500 for", "SWIFT_BIC", "DEUTDEFF500"),
    "birth_of_a_field": ('{"date_of_birth":"1984-03-12"}', "DATE_OF_BIRTH", "1984-03-12"),
    "birth_of_a_camel_field": (
        '"dateOfBirth": "1984-03-12T00:00Z"',
        "DATE_OF_BIRTH",
        "1984-03-12",
    ),
    "birth_behind_an_underscore": ("PATIENT_DOB=03/12/1984", "DATE_OF_BIRTH", "03/12/1984"),
    "birth_in_digits": ("dob: 19840312", "DATE_OF_BIRTH", "19840312"),
    "birth_of_an_export": ('"birthday":"12-Mar-1984"', "DATE_OF_BIRTH", "12-Mar-1984"),
    "birth_in_short": ("geb. am 12.03.1984", "DATE_OF_BIRTH", "12.03.1984"),
    "ssn_of_a_field": ("social_security_number: 536904399", "US_SSN", "536904399"),
    "ssn_behind_an_underscore": ('{"employee_ssn": 536904399}', "US_SSN", "536904399"),
    "passport_of_a_field": ('{"passport_number":"X1234567"}', "PASSPORT", "X1234567"),
    "passport_of_a_camel_field": ("passportNumber=543210987", "PASSPORT", "543210987"),
    "account_of_a_field": ('{"accountNumber": "12345678901"}', "BANK_ACCOUNT", "12345678901"),
    "routing_of_a_field": ('"routing_number":"021000021"', "US_BANK_ROUTING", "021000021"),
    "bic_of_a_field": ("swift_code=DEUTDEFF", "SWIFT_BIC", "DEUTDEFF"),
    "address_of_a_field": (
        '"shippingAddress": "742 Evergreen Terrace, Springfield"',
        "POSTAL_ADDRESS",
        "742 Evergreen Terrace, Springfield",
    ),
    "address_of_a_numbered_field": (
        "billing_address_line_1: 742 Evergreen Terrace",
        "POSTAL_ADDRESS",
        "742 Evergreen Terrace",
    ),
    "address_of_a_french_field": (
        '"shipping_address": "5 rue de la République, 69002 Lyon"',
        "POSTAL_ADDRESS",
        "5 rue de la République, 69002 Lyon",
    ),
    "address_in_the_next_line": (
        "Address:\n742 Evergreen Terrace",
        "POSTAL_ADDRESS",
        "742 Evergreen Terrace",
    ),
    "phone_behind_a_date": ("call on 2025-11-20 415-555-2671", "PHONE", "415-555-2671"),
    "phone_before_a_label": ("82 499 4930-Fax", "PHONE", "82 499 4930"),
    "phone_of_an_older_plan": ("to +34 773 553 069 now", "PHONE", "+34 773 553 069"),
    "phone_any_country": ("Puhelin: 013 1236616", "PHONE", "013 1236616"),
    "phone_japanese": ("電話番号は03-1234-5678です", "PHONE", "03-1234-5678"),
    "phone_of_json": ('{"phone_number": 4155552671}', "PHONE", "4155552671"),
    "phone_in_the_next_line": ("Fax\n030 901820", "PHONE", "030 901820"),
    "phone_french": ("Tél. 01 42 68 53 00", "PHONE", "01 42 68 53 00"),
    "phone_dialled": ("0044 20 7946 0958.", "PHONE", "0044 20 7946 0958"),
    "phone_dialled_in_parts": ("00 49 (0)30-901820", "PHONE", "00 49 (0)30-901820"),
    "phone_dialled_behind_a_word": ("Tel: 0044 20 7946 0958", "PHONE", "0044 20 7946 0958"),
    "phone_dialled_in_america": ("011 44 20 7946 0958", "PHONE", "011 44 20 7946 0958"),
    "iban_behind_its_name": ("IBANDE89370400440532013000", "IBAN", "DE89370400440532013000"),
    "iban_of_a_name": (
        "acct_GB82 WEST 1234 5698 7654 32 on",
        "IBAN",
        "GB82 WEST 1234 5698 7654 32",
    ),
    "ssn_dots": ("SSN: 536.90.4399", "US_SSN", "536.90.4399"),
    "ssn_behind_its_name": ("ssn536904399", "US_SSN", "536904399"),
    "ssn_was": ("her social security number was 536904399", "US_SSN", "536904399"),
    "card_dots": ("4539.1488.0343.6467", "CREDIT_CARD", "4539.1488.0343.6467"),
    "card_wide": ("Visa 4539  1488  0343  6467", "CREDIT_CARD", "4539  1488  0343  6467"),
    "card_apart": ("card 4539 - 1488 - 0343 - 6467", "CREDIT_CARD", "4539 - 1488 - 0343 - 6467"),
}

CLEAN = {
    "card_dots_not_luhn": "4539.1488.0343.6468",
    "card_wide_in_a_table": "4539  1488  0343  6467",
    "version_before": "Version 10.15.7.1 fixes it; upgrade from 9.4.2.0, updated from 8.1.0.3",
    "iban_name_wrong_check": "IBANDE89370400440532013001 and id_DE89",
    "ssn_dots_no_word": "536.90.4399",
    "dialled_order": "order 0049 171 1234567",
    "dialled_no_country": "0012 3456 7890 and 0000 0000 0000 0013",
    "dialled_no_number": "in 0044 2021 and 10:00 49 171 1234567",
    "not_luhn": "4111111111111112",
    "no_issuer": "0000000000000000 and 7111111111111117",
    "long_number": "41111111111111111111111",
    "order_number": "order 1234-5678-9012-3456",
    "version": "v1.2.3.4 and 1.2.3.4.5 and 300.1.1.1",
    "version_word": "version 81.3.4.120, build 91.0.44.7, Abschnitt 33.2.1.4",
    "version_of_a_package": "tool-81.3.4.120 and 5.17.7.201",
    "network_mask": "255.255.255.0 and 224.0.0.251",
    "private_network": "10.1.2.3 192.168.0.17 172.16.4.2 100.64.1.1 169.254.9.9 fd12:3456::1",
    "card_random": "trace 4539148803436467 and 4929718436011122334",
    "card_of_a_token": '{"kid": "4539148803436467", "alg": "RS256"}',
    "ssn_of_documentation": "ssn 123-45-6789, 078-05-1120, 111-11-1111, SSN: 123456789",
    "ssn_part": "011 15-2345-8988 and 123-536-90-4399",
    "phone_of_an_order": "phone order 123-456-7890, call id 987654321, mobile app 12.4.5678",
    "phone_of_code": "call(9876543210) and function call 9876543210",
    "loopback": "127.0.0.1 ::1 0.0.0.0 ::",
    "code": "std::max(a::b, c) and 12:30:45 and 00:1A:2B:3C:4D:5E",
    "decorator": "@pytest.mark and user@localhost",
    "ssn_invalid": "000-12-3456 666-12-3456 123-00-4567",
    "date": "2024-01-02 and 12-31-1999",
    "iban_wrong": "DE88370400440532013000",
    "hex": "deadbeefdeadbeef4111",
    "date_alone": "on 14.03.1987 and 2024-01-02",
    "address_alone": "742 Evergreen Terrace, Via Roma 12, 12 rue Victor Hugo",
    "address_of_a_machine": "the address via port 8080, an address of 10 route tables",
    "styles": "--ring: 217.2 91.2% 59.8%;",
    "email_of_signs": "،@example.com and café@ home",
    "routing_wrong": "routing number 021000022",
    "swift_word": "a swift OVERVIEW of the SWIFT LANGUAGE",
    "passport_prose": "passport renewal takes 10 weeks",
    "born_year": "born in 1987",
    "birth_counted": "born_in_batch=1984-03-12 dob_errors: 19840312 date_of_birthplace 1984-03-12",
    "fields_of_others": '"routing_table": "021000021", "passport_photo": "543210987"',
    "account_prose": "the account number is secret",
    "call_on_a_date": "Let's set up a call on 2025-11-20 at 10, phone 2024/05/06",
    "remote": "git clone git@github.com:org/repo.git",
    "image": "logo@2x.png icon@3x.webp",
    "label": "this@MainActivity.applicationContext and outer@MainActivity.applicationContext",
    "unit": "user@0.service getty@tty1.service",
    "national_phone": "the sum 415 555 2671 is large",
}


def found(text: str, *, regional: bool = False) -> list[tuple[str, str]]:
    parts = parts_of([text])
    (outcome,) = (REGIONAL if regional else POLICY).local.scan(parts)
    assert outcome.failure is None
    return [(one.type, parts[0].content[one.start : one.end].decode()) for one in outcome.findings]


@pytest.mark.parametrize("case", FOUND)
def test_personal_data_is_found_exactly(case: str) -> None:
    """The span is the datum, in the original's own bytes."""
    text, type_, value = FOUND[case]
    assert found(text) == [(type_, value)]


@pytest.mark.parametrize("case", CLEAN)
def test_what_fails_its_check_is_not_personal_data(case: str) -> None:
    """Check digits, issuer ranges and numbering plans keep ordinary numbers out."""
    assert found(CLEAN[case]) == []


def test_the_time_for_a_long_address_grows_with_its_length() -> None:
    """One of a hundred thousand letters and a sign held a worker for over a minute."""
    text, longer = (f"{'a' * size}×b@x.de{'.png' * size}" for size in (2_500, 20_000))
    assert found(text) == found(longer) == [("EMAIL", "b@x.de")]
    seconds = least_seconds(lambda: found(text), tries=5)
    assert least_seconds(lambda: found(longer)) < 20 * seconds


def test_every_type_has_an_example() -> None:
    """A rule nobody ever saw match is not a rule."""
    assert {type_ for _, type_, _ in FOUND.values()} == set(PII_TYPES) - set(NATIONAL_TYPES)


WRITTEN = {
    "US": ("415-555-2671", "(415) 555-2671", "415.555.2671", "1-415-555-2671"),
    "CA": ("(506) 234-5678",),
    "DE": ("030 901820", "(030) 901820", "030/901820", "0151 23456789", "01512 3456789"),
    "FR": ("01 42 68 53 00", "01.42.68.53.00", "0612345678"),
    "GB": ("020 7946 0958", "07400 123456", "(0121) 234 5678"),
    "IT": ("02 1234 5678", "312 345 6789"),
    "BR": ("(11) 96123-4567",),
    "RU": ("8 (912) 345-67-89",),
    "PL": ("512 345 678",),
}
"""As people of a country write numbers."""

NOT_WRITTEN = (
    "2022-343050", "1773863464", "66.796695", "15.07.1998", "2024-01-15 10:30", "0.66679669",
    "Rechnung 030 901820", "order 0123 456789", '{"sku": "0151 23456789"}', "4155552671",
    "customer id 415-555-2671", "facture 01 42 68 53 00", "612 345 678 EUR", "x-030-901820",
    "EUR 512 345 678", "0151234567890123", "30 901820", "02139-4307", "12:30:45 123 456",
    '{"ref2": "0451-371227"}', "0-834-59177-X", "091/7496/1034",
    "06113.601083", "| 0776415608 | 1200 |", "+12 345 678", "+20 345 678 units",
)  # fmt: skip
EUROPEAN = effective(policy("  - {name: pii, type: pii, regions: [US, DE, FR, GB, IT, PL, ES]}"))


@pytest.mark.parametrize(("region", "number"), [(r, n) for r in WRITTEN for n in WRITTEN[r]])
def test_a_number_counts_as_its_country_writes_it(region: str, number: str) -> None:
    """With the trunk prefix, the area in brackets, or the country's own groups."""
    own = effective(policy(f"  - {{name: pii, type: pii, regions: ['{region}']}}"))
    text = f"Ann Miller, {number}, Sales"
    (outcome,) = own.local.scan(parts_of([text]))
    assert [text[one.start : one.end] for one in outcome.findings] == [number]


@pytest.mark.parametrize("text", NOT_WRITTEN)
def test_a_look_alike_is_no_telephone_number(text: str) -> None:
    """Dates, decimals, amounts, plain numbers, and all behind a word for something else."""
    (outcome,) = EUROPEAN.local.scan(parts_of([text]))
    assert not outcome.findings


def test_private_addresses_count_if_the_policy_says_so() -> None:
    """They are the same in every network, so they are nobody's own."""
    own = effective(policy("  - {name: pii, type: pii, private_addresses: true}"))
    text = "from 10.1.2.3 and 203.0.113.7 and fe80::1."
    (outcome,) = own.local.scan(parts_of([text]))
    assert [text[one.start : one.end] for one in outcome.findings] == [
        "10.1.2.3", "203.0.113.7", "fe80::1",
    ]  # fmt: skip


@pytest.mark.parametrize("number", ["415-555-2671", "(415) 555-2671", "030 901820"])
def test_a_national_number_counts_in_a_configured_region(number: str) -> None:
    """Without a country code a number means nothing until the policy names countries."""
    assert found(f"x {number} y") == []
    assert found(f"x {number} y", regional=True) == [("PHONE", number)]


def test_an_overlap_goes_to_the_stricter_kind() -> None:
    """A social security number is also a possible telephone number; it is named once."""
    assert found("536-90-4399", regional=True) == [("US_SSN", "536-90-4399")]


def test_no_part_of_a_uuid_or_of_base64_is_an_account() -> None:
    """The check digits of one in some thousand are right by chance."""
    draw = random.Random(7)  # noqa: S311 - a test's data
    uuids = [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(40_000)]
    assert found("\n".join(uuids)) == []
    assert found(" id_".join(uuids)) == []
    assert found("cqGa/SC97OHoed7B1bqjMqm8WGQDNAGYiQLq+zjMR") == []
