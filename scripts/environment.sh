# Sourced by ./flywheel, ./airflow and scripts/install.sh: Python in UTF-8, whatever the locale says. With LC_ALL=C or
# POSIX it would take a path with a letter outside ASCII for something that cannot be written down.
case "${LC_ALL:-${LC_CTYPE:-${LANG:-}}}" in
    *[Uu][Tt][Ff]8* | *[Uu][Tt][Ff]-8*) ;;
    *) LC_ALL=C.UTF-8 && export LC_ALL ;;
esac
PYTHONUTF8=1 && export PYTHONUTF8
