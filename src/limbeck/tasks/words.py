"""The words that the built-in tasks draw from.

First names from many languages, in plain letters, so that each is one word whose
last letter is clear ("Jose Antonio" is how published gold answers went
wrong). Reordering or changing these lists changes every generated problem.
"""

from __future__ import annotations

_NAMES = """
    Aaron Abel Abigail Ada Adam Adele Adrian Agnes Aidan Aiko Aisha Akira Alan Alba Albert
    Alda Alec Alena Alex Alfred Alice Alma Alva Amal Amber Amelia Amina Amir Amos Amy Ana
    Anders Andrea Angel Anika Anita Anna Anton Anya Apollo Ari Arlo Arnav Arno Arthur Asha
    Astrid Atlas Audrey August Aurora Ava Axel Aziz Bao Barbara Basil Beatrix Becky Bella Ben
    Benno Bernd Bert Beth Bianca Bilal Birgit Bjorn Blair Bo Boris Boyd Brad Brenda Brian
    Brigid Bruno Bryn Caleb Calvin Camila Carl Carmen Carol Caspar Cecil Celia Chad Chang
    Chester Chloe Chris Clara Claude Cleo Clyde Colin Conrad Cora Craig Curt Cyril Cyrus
    Daisy Dalia Dana Daria Daniel Daphne Darius Dave Dawn Dean Deepak Delia Denis Derek Diana
    Diego Dilip Dina Dirk Dmitri Dolores Donald Dora Doris Doug Drew Dylan Earl Edgar Edith
    Edmund Eduardo Edwin Eileen Elena Eli Elias Elif Elisa Ella Elmer Elsa Elton Emil Emily
    Emma Enid Enoch Enzo Eric Erika Ernest Esra Esther Ethan Eugene Eva Evan Ezra Fabian
    Faith Farah Fatima Felix Fergus Fern Fiona Flora Floyd Frank Fred Freya Frida Fritz
    Gabriel Gail Gemma George Gerald Gideon Gilbert Gina Giulia Glen Gloria Grace Greg Greta
    Grover Gunnar Gus Guy Gwen Hadi Hamid Hana Hank Hannah Hans Harold Harper Harry Hassan
    Hazel Hector Heidi Helen Helga Henrik Henry Herbert Hiro Holly Homer Hope Howard Hubert
    Hugh Hugo Ian Ibrahim Ida Igor Ilse Imani Imran Inga Ingrid Irene Iris Irma Isaac Isabel
    Isak Ivan Ivor Ivy Jack Jacob Jade Jamal James Jan Janet Jared Jasmin Jason Javier Jay
    Jean Jeff Jenny Jerome Jess Jill Jim Jo Joan Joel John Jonas Jorge Josef Joy Juan Judith
    Jules Julia June Juno Kai Kara Karen Karim Karl Kate Kavya Kay Keiko Keith Ken Kenji
    Kevin Khalid Kim Kira Kiran Kirk Klaus Knut Kofi Kris Kurt Kwame Kyle Lance Lara Lars
    Laura Layla Lea Leah Lee Leif Leila Lena Leo Leon Leroy Levi Lewis Liam Lila Lily Lina
    Linda Lionel Lisa Liz Lloyd Logan Lola Lorenz Lotte Louis Lucas Lucy Luigi Luis Luna Luz
    Lydia Lyle Mabel Mae Magnus Maia Malik Manuel Mara Marc Marco Margot Maria Marion Mark
    Marta Martin Mary Mason Mateo Matt Maud Maurice Max Maya Megan Mei Mel Meryem Mia Micah
    Mila Milan Miles Milo Mina Ming Mira Miriam Mohan Moira Mona Monty Morgan Moses Murat
    Myra Nadia Nancy Naomi Nathan Neha Neil Nell Nelly Nia Nick Nico Nigel Nikos Nils Nina Noah
    Noel Nora Norbert Norman Nuria Odin Olaf Olga Olive Oliver Omar Opal Oren Orla Orson
    Oscar Otis Otto Owen Pablo Paige Palmer Pam Pascal Pat Paul Pavel Pearl Pedro Peggy Penny
    Percy Perry Peter Petra Phil Phoebe Pia Pierre Polly Priya Quentin Quinn Rachel Rafael
    Rahul Raisa Ralph Ramon Rana Randy Raoul Ravi Ray Rebecca Reed Regina Remy Rena Rex Rhoda
    Rhys Rita Rob Robin Rocco Roger Rohan Roland Roman Romeo Rory Rosa Ross Roy Ruby Rudolf
    Rufus Rupert Russ Ruth Ryan Sabine Sadie Said Sally Sam Samira Sandra Sanjay Sara Saul
    Scott Sean Selma Serena Seth Shane Shen Sid Sigrid Silas Simon Sofia Sol Sonja Sophie
    Stan Stella Sten Steve Stuart Sue Sunil Susan Sven Sylvia Tamar Tanya Tara Tariq Tasha
    Ted Teresa Terry Tess Thea Theo Thomas Thor Tessa Tim Tina Toby Todd Tom Tonya Tova Troy
    Tyler Uma Una Ursula Vadim Vera Vernon Victor Vikram Vince Viola Vivek Wade Wallace
    Walter Wanda Warren Wei Wendy Wilbur Wilhelm Will Willow Wilma Xavier Xena Yael Yan
    Yasmin Yoko Yosef Yuri Yusuf Yves Zach Zahra Zane Zara Zeb Zelda Zhen Zoe Zoltan Zora
"""

_THINGS = """
    acorns apples badges bags balloons balls bananas beads bells berries biscuits blocks books
    boots bottles bowls boxes bricks brushes buckets buttons cakes candles candies caps cards
    carrots chairs cherries chestnuts clips coins combs cookies corks crayons cups dates dishes
    dolls eggs erasers feathers figs flags flowers forks gloves grapes hats jars keys kites
    lamps leaves lemons lids limes maps marbles masks melons mugs nails nuts olives onions
    oranges peaches pearls pears pebbles pencils pens pins plates plums posters pots radishes
    ribbons rings roses rulers scarves seeds shells shirts socks spoons stamps stars stickers
    stones straws tickets tiles tomatoes toys trays tulips vases walnuts whistles
"""

_COLOURS = "black blue brown gold green grey orange pink purple red white yellow"

_OBJECTS = """
    bag ball balloon book bottle bowl box brush cap card chair coat cup flag hat jar key kite
    lamp mug pen ring scarf stamp stone ticket toy tray vase
"""

NAMES, THINGS, COLOURS, OBJECTS = (tuple(words.split()) for words in (_NAMES, _THINGS, _COLOURS, _OBJECTS))
SHORT_NAMES = tuple(name for name in NAMES if len(name) <= 4)
"""For tasks where names are incidental: small models spell them letter by letter."""
