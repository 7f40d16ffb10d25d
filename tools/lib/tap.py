# SPDX-License-Identifier: MIT OR Apache-2.0
"""TAP for the tests that are Python."""


def run_tests(names):
    """Runs the functions test_* of globals(). A status for sys.exit()."""
    tests = [(name, test) for name, test in names.items() if name.startswith('test_')]
    failed = 0
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
            verdict = 'ok'
        except AssertionError as error:
            failed += 1
            verdict = 'not ok'
            lines = str(error).splitlines()
            print(f'# line {error.__traceback__.tb_next.tb_lineno}', *lines, sep='\n# ')
        print(f'{verdict} {number} - {name[5:].replace("_", " ")}')
    print(f'1..{len(tests)}')
    return int(failed > 0)
