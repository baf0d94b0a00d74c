"""Names for jobs that were given none, which people can tell apart and say: `quiet-heron-412`.

A name is nothing but the beginning of the job's id in other words: seven bits of it are a quality, seven an animal,
ten a number. So it is the same wherever it is shown, nothing has to be stored, and it leads back to the id.
"""

from __future__ import annotations

import re
import string

DIGITS_TOLD = 6
"""Hexadecimal digits of an id that a name tells: 24 bits, so that hardly two jobs of a project have the same."""
_QUALITIES_WORDS = """
able agile airy alert amber ample apt autumn azure basic bold brave breezy brief bright brisk bronze busy calm candid
careful casual cheery chief civil classy clean clear clever cloudy coastal cool copper coral cosy crimson crisp
curious daring dapper deft dewy eager early earnest easy even exact fair famous fast fancy fine firm fluent fond frank
free fresh frosty gentle giant glad golden grand green handy happy hardy hidden honest humble jolly keen kind late
leafy level light lively local lofty loyal lucky lunar major mellow merry mighty mild minty misty modest narrow neat
new noble novel olive open orange patient pearly plain polar polite prime proud quick quiet rapid rare rosy round
royal rustic sandy silent silver smooth snowy solar steady sunny swift tidy warm wise
"""
QUALITIES = tuple(_QUALITIES_WORDS.split())
"""What is said of an animal, one for each seven bits."""
_ANIMALS_WORDS = """
adder alpaca ant badger bat bear beaver bee beetle bison boar bobcat bream buffalo camel canary carp cat catfish cobra
cod condor coot cougar cow coyote crab crane cricket crow cuckoo curlew deer dingo dog dolphin donkey dove duck eagle
eel egret elk emu falcon ferret finch firefly fox frog gazelle gecko gibbon giraffe goat goose grouse gull hamster
hare hawk heron hippo hornet horse hyena ibex ibis iguana impala jackal jaguar jay kestrel kiwi koala krill lemming
lemur leopard linnet lion lizard llama lobster lynx magpie marlin marmot marten mink mole moose moth mouse mule newt
ocelot octopus orca osprey otter owl ox oyster panda parrot pelican penguin perch pigeon pike pony puffin puma quail
rabbit raven robin salmon seal shrew snail swan tiger toad trout turtle
"""
ANIMALS = tuple(_ANIMALS_WORDS.split())
"""Animals, one for each seven bits."""
_NUMBERS = 1024
UNSEEN = "".join(map(chr, (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000, 0x2800)))
UNSEEN += "".join(map(chr, (0x200C, 0x200D, *range(0xFE00, 0xFE10))))
"""Characters that a name may have and that don't show by themselves: blanks, joiners, selectors of variants."""
_GENERATED = re.compile(r"([a-z]+)-([a-z]+)-(\d{1,4})", re.ASCII)


def called(name: str, job_id: str) -> str:
    """What people call a job: by the name that it was given, or by the one that its id makes.

    Args:
        name: the name that it was given; empty, or nothing that can be seen: none.
        job_id: the server's id of it; empty: no server has it, and nothing is made.
    """
    return name if name.strip(UNSEEN) else generated(job_id)


def generated(job_id: str) -> str:
    """The name that an id makes; the beginning of the id where that is not hexadecimal."""
    told = job_id[:DIGITS_TOLD]
    if len(told) < DIGITS_TOLD or not set(told) <= set(string.hexdigits):
        return job_id[:8]
    rest, number = divmod(int(told, 16), _NUMBERS)
    quality, animal = divmod(rest, len(ANIMALS))
    return f"{QUALITIES[quality]}-{ANIMALS[animal]}-{number}"


def id_beginning(name: str) -> str:
    """The beginning of the id that makes a name; empty: no id does."""
    found = _GENERATED.fullmatch(name.strip().lower())
    if found is None or found[1] not in QUALITIES or found[2] not in ANIMALS or int(found[3]) >= _NUMBERS:
        return ""
    quality, animal = QUALITIES.index(found[1]), ANIMALS.index(found[2])
    return f"{(quality * len(ANIMALS) + animal) * _NUMBERS + int(found[3]):0{DIGITS_TOLD}x}"
