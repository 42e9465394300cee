from dropaudit.cli import main

main()
