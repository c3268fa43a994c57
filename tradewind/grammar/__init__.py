"""What an answer may say: a JSON Schema, a regex, a choice or a grammar, as masks over the vocabulary.

llguidance does the parsing underneath. A grammar's text is in its variant of Lark's syntax from `compile.py` on.
"""
