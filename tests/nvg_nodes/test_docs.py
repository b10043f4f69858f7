"""What users read: a help page for every node, the same names in every language, and metadata that the hosts accept.

English is derived from the schemas (`make derived`); the other languages are kept by hand, and show English where they
lack a text.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import translated
from derived import FILES, contents, default_of, schemas
from PIL import Image

from nvg_nodes.extension import NODES
from nvg_nodes.standalone.core_nodes import CORE

ROOT = Path(__file__).parents[2]
LOCALES = ROOT / "locales"
PAGES = ROOT / "nvg_nodes" / "web" / "docs"
SCHEMAS = schemas()
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
TRANSLATIONS = [language for language in LANGUAGES if language != "en"]


# ---------------------------------------------------------------------------------------------------------- locales


@pytest.mark.parametrize("path", contents())
def test_derived_files_are_those_of_the_schemas(path):
    assert path.read_text(encoding="utf-8") == contents()[path], "write it again: make derived"


def test_the_languages():
    assert LANGUAGES == ["de", "en", "fr", "ja", "zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_language_has_other_texts_than_english(language):
    given = translated.of(language)
    assert sorted(given.keys() - translated.of("en").keys()) == [], f"remove them from locales/{language}/nodeDefs.json"
    assert all(value.strip() for value in given.values())


def test_what_a_language_lacks_is_named_before_it_is_published(tmp_path):
    """Of languages that are whole, whatever the shipped ones lack: a new node may wait for its translations."""
    locales = tmp_path / "locales"
    for language in ("en", "fr", "de"):
        shutil.copytree(LOCALES / "en", locales / language)
    tree = json.loads((locales / "fr" / "nodeDefs.json").read_text(encoding="utf-8"))
    del tree["NVGDecode"]["display_name"]
    (locales / "fr" / "nodeDefs.json").write_text(json.dumps(tree), encoding="utf-8")
    assert translated.lacking(locales) == ["fr/nodeDefs.json lacks 1 texts, such as .NVGDecode.display_name"]
    assert re.search(r"^publishable:(\n\t.*)*translated\.py", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_are_translated(language):
    english, given = translated.of("en"), translated.of(language)
    same = {path for path, text in given.items() if text == english[path] and not path.endswith(".name")}
    assert not same - {".NVGStart.display_name"}
    places = [path for path in given if re.search("[@{}|]", given[path]) and "hub_id" not in path]
    assert not places, "these characters mean something to vue-i18n: escape them"
    names = [text for path, text in given.items() if re.fullmatch(r"\.\w+\.display_name", path)]
    assert len(set(names)) == len(names), "two nodes have the same name"
    for path, text in given.items():
        for numbers in re.findall(r"\d+(?:\.\d+)?", english[path]):
            assert numbers in text.replace(",", ".") or path.endswith("display_name"), (path, numbers)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_categories_are_translated(language):
    words = {word for node in NODES for word in node.GET_SCHEMA().category.split("/")} - {"NVG"}
    main = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))
    assert main.keys() == {"nodeCategories"} and main["nodeCategories"].keys() == words


# ------------------------------------------------------------------------------------------------------- help pages


def table(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head; lines of a cell are cells (the help panel is narrow)."""
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"\||<br>", row.strip("|"))] for row in rows[2:]]


def test_every_node_has_a_page_and_every_page_a_node():
    assert {page.stem for page in PAGES.glob("**/*.md")} == SCHEMAS.keys()


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_the_page_names_what_the_node_has(node_id):
    page, schema = (PAGES / f"{node_id}.md").read_text(encoding="utf-8"), SCHEMAS[node_id]
    inputs, outputs = table(page, "Inputs"), table(page, "Outputs")
    assert [row[:3] for row in inputs] == [[f"`{one.id}`", one.io_type, default_of(one)] for one in schema.inputs]
    assert [row[:2] for row in outputs] == [[f"`{one.display_name}`", one.io_type] for one in schema.outputs]
    assert all(len(row) == 4 and row[3] for row in inputs) and all(len(row) == 3 and row[2] for row in outputs)
    for title in ("Tips", "If something goes wrong", "See also"):
        assert f"\n## {title}\n" in page


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_the_page_names_choices_and_nodes_that_exist(node_id):
    page, schema = (PAGES / f"{node_id}.md").read_text(encoding="utf-8"), SCHEMAS[node_id]
    names = {node.GET_SCHEMA().display_name for node in (*NODES, *CORE)}
    assert set(re.findall(r"\*\*(.+?)\*\*", page)) <= names
    for one, row in zip(schema.inputs, table(page, "Inputs"), strict=True):
        choices = one.as_dict().get("options", []) if one.id not in FILES else []
        missing = [choice for choice in choices if f"`{choice}`" not in row[2] + row[3]]
        assert not missing, f"{one.id} does not explain {missing}"


# ---------------------------------------------------------------------------------------------------------- search


def test_words_that_artists_type_find_the_pack():
    typed = "outline silhouette composition regional img2img inpaint edit reference style compare layout sketch control"
    found = {word for schema in SCHEMAS.values() for word in schema.search_aliases}
    assert set(typed.split()) <= found
    for node_id, schema in SCHEMAS.items():
        assert "nvg" in schema.search_aliases and len(set(schema.search_aliases)) == len(schema.search_aliases), node_id


# -------------------------------------------------------------------------------------------------------- registry


def test_the_registry_is_told_all_but_what_the_owner_knows():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    comfy = text[text.index("[tool.comfy]") : text.index("[tool.hatch.build]")]
    for field in ("PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"):
        assert re.search(rf"^{field} = ", comfy, re.MULTILINE), field
    assert '"Operating System :: OS Independent"' in text and '"Environment :: GPU' in text
    publishing = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").split("## Publishing")[1]
    for field in ("Repository", "PublisherId", "Icon", "Banner"):
        assert f"`{field}`" in publishing
    for picture, size in (("icon.png", (400, 400)), ("banner.png", (1680, 720))):
        with Image.open(ROOT / "docs" / picture) as opened:
            assert opened.size == size


# --------------------------------------------------------------------------------------------------------- archive


def test_the_registrys_archive_leaves_out_what_exists_and_keeps_what_nodes_need():
    patterns = [line for line in (ROOT / ".comfyignore").read_text().splitlines() if line and not line.startswith("#")]
    assert all(pattern.startswith("/") for pattern in patterns), "a pattern from the root means that folder only"
    left_out = {path for pattern in patterns for path in ROOT.glob(pattern.strip("/"))}
    assert all(list(ROOT.glob(pattern.strip("/"))) for pattern in patterns if "*" not in pattern), (
        "nothing is called so"
    )
    needed = ["__init__.py", "nvg_model", "nvg_nodes", "locales", "workflows", "subgraphs", "pyproject.toml", "LICENSE"]
    needed += ["README.md"]
    needed += ["docs/install.md", "docs/troubleshooting.md", "docs/emoji64-attribution.md"]
    assert not {ROOT / name for name in needed} & left_out
    assert all((ROOT / name).exists() and not left_out & set((ROOT / name).parents) for name in needed)
