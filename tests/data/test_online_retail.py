"""UCI Online Retail: which rows are purchases of a product by a known customer."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from metarec.data import load_dataset
from metarec.errors import DataError

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
ROWS = [
    "536365,85123A,HANGING HEART,6.0,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
    "536400,85123A,HANGING HEART,1.0,2010-12-02 08:26:00,2.55,17850.0,United Kingdom",
    "536401,85123A,WHITE HANGING HEART,1.0,2010-12-03 08:26:00,2.55,13047.0,France",
    "536402,71053,LANTERN,2,2010-12-04 08:26:00,3.39,17850,United Kingdom",
    "C536403,71053,LANTERN,-2,2010-12-05 08:26:00,3.39,17850,United Kingdom",
    "536404,71053,LANTERN,1,2010-12-05 08:26:00,3.39,,United Kingdom",
    "536405,POST,POSTAGE,1,2010-12-05 08:26:00,18.0,13047,France",
    "536406,71053,LANTERN,0,2010-12-05 08:26:00,3.39,13047,France",
    "536407,71053,LANTERN,1,2010-12-05 08:26:00,0.0,13047,France",
]


@pytest.fixture
def typed(shop, tmp_path):
    """The rows as a Parquet file: numbers are numbers there, and times are times."""
    frame = pd.read_csv(shop(*ROWS, name="rows.csv") / "rows.csv", parse_dates=["InvoiceDate"])
    assert str(frame["CustomerID"].dtype) == "float64"
    folder = tmp_path / "parquet"
    folder.mkdir()
    frame.to_parquet(folder / "online_retail.parquet")
    return folder


@pytest.fixture
def shop(tmp_path):
    def make(*rows: str, header: str = HEADER, name: str = "online_retail.csv") -> Path:
        (tmp_path / name).write_text(header + "\n".join(rows) + "\n")
        return tmp_path

    return make


def test_every_rule_drops_and_counts_its_row(shop):
    dataset = load_dataset("online-retail", folder=shop(*ROWS))
    assert dataset.report.dropped == {
        "cancellation": 1,
        "missing customer": 1,
        "code is not of a product": 1,
        "quantity is not positive": 1,
        "price is not positive": 1,
        "repeated user-item pair, merged into the earliest by time": 1,
    }
    assert dataset.report.read == len(ROWS)
    assert dataset.feedback == "implicit"
    assert dataset.user_ids.tolist() == ["13047", "17850"]
    assert dataset.item_ids.tolist() == ["71053", "85123A"]


def seconds(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").timestamp())


def test_a_merged_pair_keeps_its_earliest_time_or_on_request_the_latest(shop):
    folder = shop(*ROWS[:2])
    assert load_dataset("online-retail", folder=folder).times.tolist() == [
        seconds("2010-12-01 08:26")
    ]
    latest = load_dataset("online-retail", folder=folder, duplicates="latest")
    assert latest.times.tolist() == [seconds("2010-12-02 08:26")]


def test_the_text_is_the_most_frequent_description_and_country(shop):
    dataset = load_dataset("online-retail", folder=shop(*ROWS))
    assert dataset.item_text["description"].tolist() == ["LANTERN", "HANGING HEART"]
    assert dataset.user_text["country"].tolist() == ["France", "United Kingdom"]


def test_american_dates_of_a_spreadsheet_are_read(shop):
    row = "536365,71053,LANTERN,6,12/1/2010 8:26,2.55,17850,United Kingdom"
    dataset = load_dataset("online-retail", folder=shop(row))
    assert dataset.times.tolist() == [seconds("2010-12-01 08:26")]


def test_british_dates_are_told_by_a_day_that_is_no_month(shop):
    rows = [
        f"53636{day},71053,LANTERN,6,{day:02d}/12/2010 8:26,2.55,1785{day},United Kingdom"
        for day in (1, 13)
    ]
    dataset = load_dataset("online-retail", folder=shop(*rows))
    assert dataset.times.tolist() == [seconds(f"2010-12-{day:02d} 08:26") for day in (1, 13)]


def test_a_compressed_copy_is_read(shop, tmp_path):
    folder = shop(*ROWS)
    expected = load_dataset("online-retail", folder=folder).checksum
    path = folder / "online_retail.csv"
    (folder / "online_retail.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert load_dataset("online-retail", folder=folder).checksum == expected


def test_a_parquet_file_with_types_is_read_as_the_csv_file(shop, typed):
    given, expected = (load_dataset("online-retail", folder=one) for one in (typed, shop(*ROWS)))
    assert given.report == expected.report
    assert given.checksum == expected.checksum


def test_the_publishers_excel_file_is_read(shop):
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    folder = shop(*ROWS)
    expected = load_dataset("online-retail", folder=folder).checksum
    path = folder / "online_retail.csv"
    frame = pd.read_csv(path, parse_dates=["InvoiceDate"])
    path.unlink()
    frame.to_excel(folder / "Online Retail.xlsx", index=False)
    assert load_dataset("online-retail", folder=folder).checksum == expected


@pytest.mark.parametrize(
    ("quantity", "price", "column"),
    [("six", "2.55", "Quantity"), ("6", "inf", "UnitPrice"), ("6", "", "UnitPrice")],
)
def test_a_quantity_or_price_that_is_no_number_is_an_error_or_is_counted(
    shop, quantity, price, column
):
    row = f"536365,71053,LANTERN,{quantity},2010-12-01 08:26:00,{price},17850,United Kingdom"
    folder = shop(ROWS[0], row)
    with pytest.raises(DataError, match=rf"online_retail\.csv, line 3, column '{column}'"):
        load_dataset("online-retail", folder=folder)
    report = load_dataset("online-retail", folder=folder, on_bad_rows="drop").report
    assert report.dropped == {f"{column} is no finite number": 1}


def test_an_unreadable_date_names_its_line_in_the_file(shop):
    row = "536365,71053,LANTERN,6,soon,2.55,17850,United Kingdom"
    with pytest.raises(DataError, match=r"line 4, column 'InvoiceDate': found 'soon'"):
        load_dataset("online-retail", folder=shop(ROWS[0], ROWS[4], row))


def test_the_columns_of_another_release_are_an_error(shop):
    header = HEADER.replace("InvoiceNo", "Invoice").replace("UnitPrice", "Price")
    with pytest.raises(DataError, match=r"no column 'InvoiceNo'; did you mean 'Invoice'"):
        load_dataset("online-retail", folder=shop(ROWS[0], header=header))


def test_nothing_but_cancellations_is_an_error_that_shows_the_report(shop):
    with pytest.raises(DataError, match=r"no interaction left(?s:.*)dropped 1: cancellation"):
        load_dataset("online-retail", folder=shop(ROWS[4]))


@pytest.mark.shared_data("online-retail")
def test_the_real_file_has_its_known_counts(shared_data):
    dataset = load_dataset("online-retail", folder=shared_data / "online-retail")
    assert (dataset.report.read, len(dataset)) == (541_909, 266_221)
    assert (dataset.n_users, dataset.n_items) == (4_334, 3_659)
    assert (pd.Series(dataset.users).value_counts() >= 8).sum() == 3_857
