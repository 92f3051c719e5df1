"""Is a file a FinOps FOCUS cost and usage table, of 1.4 or 1.2? Columns, their order, types, nulls, values, and what figures
of a row owe to each other. Written from the specification's pages (https://focus.finops.org/focus-specification/), not from
the program that writes the files; check() says what is wrong, in words."""

import csv
import datetime
import decimal
import json
import re

D = decimal.Decimal
decimal.getcontext().prec = 60

STRING, DECIMAL, TIME, JSON = "string", "decimal", "time", "json"
NULL, FILLED = True, False
# Mandatory in both: column -> type, may it be null?
MANDATORY = {
    "BilledCost": (DECIMAL, FILLED), "BillingAccountId": (STRING, FILLED), "BillingAccountName": (STRING, NULL),
    "BillingCurrency": (STRING, FILLED), "BillingPeriodEnd": (TIME, FILLED), "BillingPeriodStart": (TIME, FILLED),
    "ChargeCategory": (STRING, FILLED), "ChargeClass": (STRING, NULL), "ChargeDescription": (STRING, NULL),
    "ChargePeriodEnd": (TIME, FILLED), "ChargePeriodStart": (TIME, FILLED), "ContractedCost": (DECIMAL, FILLED),
    "EffectiveCost": (DECIMAL, FILLED), "InvoiceIssuerName": (STRING, FILLED), "ListCost": (DECIMAL, FILLED),
    "PricingQuantity": (DECIMAL, NULL), "PricingUnit": (STRING, NULL), "ServiceCategory": (STRING, FILLED),
    "ServiceName": (STRING, FILLED),
}
MANDATORY_OF = {"1.4": {"HostProviderName": (STRING, FILLED), "ServiceProviderName": (STRING, FILLED)},
                "1.2": {"ProviderName": (STRING, FILLED), "PublisherName": (STRING, FILLED)}}
# What a gateway of language models meets besides.
CONDITIONAL = {
    "BillingAccountType": STRING, "ChargeFrequency": STRING, "ConsumedQuantity": DECIMAL, "ConsumedUnit": STRING,
    "ContractedUnitPrice": DECIMAL, "ListUnitPrice": DECIMAL, "PricingCategory": STRING, "RegionId": STRING,
    "RegionName": STRING, "ResourceId": STRING, "ResourceName": STRING, "ResourceType": STRING,
    "ServiceSubcategory": STRING, "SkuId": STRING, "SkuMeter": STRING, "SkuPriceDetails": JSON, "SkuPriceId": STRING,
    "SubAccountId": STRING, "SubAccountName": STRING, "SubAccountType": STRING, "Tags": JSON,
}
CONDITIONAL_OF = {"1.4": {"AllocatedMethodDetails": JSON, "AllocatedMethodId": STRING, "AllocatedResourceId": STRING,
                          "AllocatedResourceName": STRING, "AllocatedTags": JSON}, "1.2": {"InvoiceId": STRING}}
WANTED = {"SubAccountId", "ConsumedQuantity", "ConsumedUnit", "SkuId", "SkuMeter", "SkuPriceId", "ListUnitPrice",
          "ContractedUnitPrice", "PricingCategory", "RegionId", "ResourceId", "ResourceType", "Tags"}
VALUES = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"}, "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"", "One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning"}, "ServiceSubcategory": {"", "Generative AI"}, "BillingCurrency": {"USD"},
}
UNIT = re.compile(r"^(\d+ )?[A-Z][A-Za-z]*(-[A-Z][A-Za-z]*)*$")
NUMBER = re.compile(r"^-?\d+\.\d+(E[+-]?\d+)?$")
UTC = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


def read(path):
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    return rows[0], [dict(zip(rows[0], r)) for r in rows[1:]], {len(r) for r in rows}


def at(text):
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")


def check_columns(version, columns):
    known = {**MANDATORY, **MANDATORY_OF[version]}
    allowed = set(known) | set(CONDITIONAL) | set(CONDITIONAL_OF[version])
    own = [c for c in columns if c.startswith("x_")]
    yield from (f"column {c} is missing" for c in [*known, *sorted(WANTED)] if c not in columns)
    yield from (f"column {c} is none of {version}" for c in columns if c not in allowed and c not in own)
    yield from (f"column {c} is there twice" for c in {c for c in columns if columns.count(c) > 1})
    if columns[len(columns) - len(own):] != own:
        yield "columns of our own are not the last"
    yield from (f"column {c} is not in PascalCase" for c in columns if not re.match(r"^(x_)?([A-Z][a-z]+)+$", c))


def check_type(column, kind, value):
    if kind == DECIMAL and not NUMBER.match(value):
        yield f"{column}: {value!r} is no plain decimal"
    if kind == TIME and (not UTC.match(value) or not at(value)):
        yield f"{column}: {value!r} is no time in UTC"
    if kind == JSON:
        try:
            tags = json.loads(value)
            if not isinstance(tags, dict) or any(isinstance(v, (dict, list)) for v in tags.values()):
                yield f"{column}: {value!r} is not flat"
        except ValueError:
            yield f"{column}: {value!r} is no JSON"
    if value.upper() in ("NULL", "N/A", "NONE"):
        yield f"{column}: null is an empty field"


def check_row(version, row):
    known = {**MANDATORY, **MANDATORY_OF[version]}
    for column, value in row.items():
        kind, null = known.get(column, ({**CONDITIONAL, **CONDITIONAL_OF[version]}.get(column, STRING), NULL))
        if value:
            yield from check_type(column, kind, value)
        elif not null:
            yield f"{column}: is null"
        if column in VALUES and value not in VALUES[column]:
            yield f"{column}: {value!r} is not allowed"
        if column in ("PricingUnit", "ConsumedUnit") and value and not UNIT.match(value):
            yield f"{column}: {value!r} is no unit"


def check_together(row):
    """What columns of a row owe to each other. Types are right already."""
    if not at(row["BillingPeriodStart"]) <= at(row["ChargePeriodStart"]) < at(row["ChargePeriodEnd"]):
        yield "the charge's period is not within the bill's, or is empty"
    if at(row["ChargePeriodEnd"]) > at(row["BillingPeriodEnd"]):
        yield "the charge's period ends after the bill's"
    for cost, price in (("ListCost", "ListUnitPrice"), ("ContractedCost", "ContractedUnitPrice")):
        if row[price] and D(row[cost]) != D(row[price]) * D(row["PricingQuantity"]):
            yield f"{cost} is not {price} x PricingQuantity"
    pairs = [("SubAccountId", "SubAccountType"), ("BillingAccountId", "BillingAccountType"), ("ResourceId", "ResourceType"),
             ("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit"), ("RegionId", "RegionName"),
             ("SkuId", "SkuPriceId"), ("SkuId", "SkuMeter")]
    yield from (f"{a} without {b}, or the other way round" for a, b in pairs if bool(row[a]) != bool(row[b]))
    if D(row["BilledCost"]) and row.get("ProviderName", row["InvoiceIssuerName"]) != row["InvoiceIssuerName"]:
        yield "billed with more than 0 by another than the provider"
    if not row["SkuPriceId"] and any(row[c] for c in ("PricingQuantity", "ConsumedQuantity", "ListUnitPrice",
                                                      "ContractedUnitPrice")):
        yield "prices and quantities without a SKU"
    if row["ChargeCategory"] == "Usage" and not row["ChargeClass"]:
        yield from (f"{c}: is null, of usage" for c in ("SkuId", "PricingQuantity", "ConsumedQuantity", "ListUnitPrice",
                                                        "PricingCategory", "ChargeFrequency") if not row[c])


def check(path, version):
    columns, rows, widths = read(path)
    problems = list(check_columns(version, columns))
    if len(widths) != 1:
        problems.append(f"rows of {sorted(widths)} fields")
    for i, row in enumerate(rows):
        wrong = list(check_row(version, row)) if len(row) == len(columns) else ["too few fields"]
        problems += [f"row {i + 1}: {x}" for x in (wrong or check_together(row))]
    return problems


def total(rows, column, kinds=None, **where):
    return sum((D(r[column]) for r in rows if r[column] and (kinds is None or r["x_CostKind"] in kinds) and
                all(r[k] == v for k, v in where.items())), D(0))
