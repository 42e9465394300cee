from dropaudit.cli import main

main(prog_name="dropaudit")
