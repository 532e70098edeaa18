"""Installed as ``optimum/commands/register/register_grail.py``, where ``optimum-cli`` looks for further commands."""

from optimum_grail.commands.grail import GrailCommand

REGISTER_COMMANDS = [GrailCommand]
