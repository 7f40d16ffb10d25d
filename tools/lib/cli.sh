# What the project's commands do alike, for them to source: arguments, and how they say what is wrong.
# Who sources it defines usage(), which prints the help.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

misuse() {
    echo "${0##*/}: $*" >&2
    usage >&2
    exit 2
}

# parse 'FLAG... OPTION=...' "$@": --flag sets the variable `flag` to true, --an-option VALUE sets
# `an_option`. All else goes to the array `arguments`, and what follows -- to the array `rest`.
# --help is answered here.
# shellcheck disable=SC2034 # `rest` is for who sources this
parse() {
    local known=" $1 " word
    shift
    arguments=()
    rest=()
    while (($# > 0)); do
        word=${1#--}
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --)
            rest=("${@:2}")
            return
            ;;
        -*)
            if [[ $known == *" $word= "* ]]; then
                (($# > 1)) || misuse "$1 needs a value"
                printf -v "${word//-/_}" %s "$2"
                shift
            elif [[ $known == *" $word "* ]]; then
                printf -v "${word//-/_}" true
            else
                misuse "there is no option $1"
            fi
            ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
}

# takes COUNT WHAT: there are as many arguments as that.
takes() {
    ((${#arguments[@]} == $1)) || misuse "give $2${arguments[*]:+, and not \"${arguments[*]}\"}"
}
