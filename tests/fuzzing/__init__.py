"""Random graphs of the rules' operators: building them (build, one file per family of operators), and
shrinking one on which the merge fails (shrink). tests/fuzz.py runs them."""
