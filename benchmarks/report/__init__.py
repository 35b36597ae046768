"""From rows of results to tables, plots and pages; nothing here measures.

table      what a table is: rows under columns, as Markdown and as HTML
queries    training    heads    hybrid    site    survey    arithmetic    machines
           what each shows of the rows that concern it
markdown   all tables as text
plots      head_plot    the pictures
page       the self-contained HTML page
readme     the figures in README.md
pages      writes README.md's figures and all of docs/ that holds figures
"""
